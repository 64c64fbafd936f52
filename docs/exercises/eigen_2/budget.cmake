set(budget "16 * S")
