"""Load tests: scenarios, their arrivals, what each request showed, the objectives and the report."""
