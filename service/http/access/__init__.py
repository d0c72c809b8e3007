"""Who may call what, and whether there is room: keys, budgets and admission."""
