"""What `benchmarks.score_http` measures with: a client, and the site with one empty view more."""
