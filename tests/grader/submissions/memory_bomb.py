"""Takes memory until it is stopped."""

held = []
for _ in range(200):
    held.append(bytearray(b"x") * (16 * 1024 * 1024))
