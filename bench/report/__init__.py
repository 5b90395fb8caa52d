"""The report of the suite's results: results, figures, story, markup."""
