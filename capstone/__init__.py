"""All of the advanced exercises' solutions in one service: `make capstone`."""
