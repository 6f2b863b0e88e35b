"""The verbs: each plans purely and acts thinly, and none calls another."""
