set(budget "L * S")
