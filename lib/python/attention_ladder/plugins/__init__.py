"""Where other packages plug an attention in. Each module is imported only by those who ask for it."""
