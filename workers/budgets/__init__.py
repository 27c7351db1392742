"""Budgets: what automations, keys and users may spend in a UTC day or month."""
