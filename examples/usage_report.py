"""A usage report: limits and spending as a table, with a warning over 80 %.

Run it with: python examples/usage_report.py
"""

import recall_sdk.testing.demo  # without RECALL_API_KEY: a stand-in server. Delete this line to use Recall.
from recall_sdk import RecallClient

WARN_ABOVE = 80  # percent of the spending limit

with RecallClient() as client:
    limits = client.get_usage_limits()

print(f"{'':<8}{'limit':>8}{'left':>8}  {'full again at':<26}limited now")
for kind in ("sync", "async"):
    rate = limits.rate_limit[kind]
    print(f"{kind:<8}{rate['limit']:>8}{rate['remaining']:>8}  {rate['resetAt']:<26}{'yes' if rate['isLimited'] else 'no'}")

usage = limits.usage
percent = 100 * usage["currentPeriodCost"] / usage["limit"] if usage["limit"] else 100.0
print(f"\nplan {usage['plan']}: ${usage['currentPeriodCost']:.2f} of ${usage['limit']:.2f} spent ({percent:.1f} %)")
if percent > WARN_ABOVE:
    print(f"WARNING: more than {WARN_ABOVE} % of the spending limit is used")
