"""The pack of ecology: what of it is an algorithm."""
