"""The turn gateway: two balancers, one store, backends that know nothing of turns, and faults."""
