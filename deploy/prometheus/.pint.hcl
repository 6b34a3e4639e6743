# For cloudflare/pint, from this folder:
#   pint --config .pint.hcl --offline lint rules.yml

parser {
  # A PrometheusRule has its groups deeper down.
  relaxed = ["rules-kubernetes.yml"]
}

checks {
  disabled = [
    # It asks for a `for` of every ratio, since a server that has just started has not scraped every
    # target yet. Both sides of these come from the same scrapes, so what there is of a job is
    # judged rightly, and alerts that need much of it have a least number.
    "promql/fragile",
  ]
}
