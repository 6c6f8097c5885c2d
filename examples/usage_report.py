"""A usage report: limits and spending as a table, with a warning over 80 %.

Run it with: python examples/usage_report.py
"""

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import RecallClient

WARN_ABOVE = 80  # percent of the spending limit

with RecallClient() as client:
    limits = client.get_usage_limits()

print(f"{'':<8}{'limit':>8}{'left':>8}  {'full again at':<26}limited now")
for kind in ("sync", "async"):
    rate = limits.rate_limit[kind]
    limited = "yes" if rate["isLimited"] else "no"
    counts = f"{rate['limit']:>8}{rate['remaining']:>8}"
    print(f"{kind:<8}{counts}  {rate['resetAt']:<26}{limited}")

usage = limits.usage
spent, limit = usage["currentPeriodCost"], usage["limit"]
percent = 100 * spent / limit if limit else 100.0
print(f"\nplan {usage['plan']}: ${spent:.2f} of ${limit:.2f} spent ({percent:.1f} %)")
if percent > WARN_ABOVE:
    print(f"WARNING: more than {WARN_ABOVE} % of the spending limit is used")
