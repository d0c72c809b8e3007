"""The contract, `ul.proto`, and what `make proto` generates from it."""
