set(budget "3 * (16 + Ev)")
