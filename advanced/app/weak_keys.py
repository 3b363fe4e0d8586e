"""What makes a key weak: too short for its algorithm, or copied from somewhere."""

KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""A key must be at least as long as the hash that it goes into (RFC 7518, section 3.2)."""

EXAMPLE_WORDS = (
    *("changeme", "changethis", "changein", "example", "goeshere", "insecure", "password"),
    *("placeholder", "replaceme", "replacethis", "secretkey", "supersecret", "yourkey"),
    *("yoursecret", "verysecret", "mysecret", "notasecret", "jwtsecret", "demosecret", "topsecret"),
    *("developmentkey", "0123456789", "1234567890", "abcdefgh", "qwerty"),
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # in many tutorials
)
"""What keys that were copied from somewhere contain, in small letters and digits alone."""

FEWEST_CHARACTERS = 8
"""Different ones in a key. 32 random hexadecimal digits have fewer once in 20 million."""


def is_example(key: str) -> bool:
    plain = "".join(filter(str.isalnum, key.lower()))
    return len(set(key)) < FEWEST_CHARACTERS or any(word in plain for word in EXAMPLE_WORDS)
