"""Prints what a report looks like."""

print("medium/ex02  A rate limit for each session\n100 of 100 points")
print('{"result": {"check": "refuses_over_limit", "test": "t", "verdict": "passed"}}')
print('{"collected": {"refuses_over_limit": 1}}\n{"finished": 0}', flush=True)
