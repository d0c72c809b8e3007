"""The image routes of OpenAI's API over our own, so that its SDKs work unchanged."""
