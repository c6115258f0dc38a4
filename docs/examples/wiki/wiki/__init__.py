"""A wiki with history and search: the program that the tutorial of Durus builds."""
