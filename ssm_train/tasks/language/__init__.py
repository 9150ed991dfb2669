"""Language models: training, perplexity, and evaluation with lm-evaluation-harness."""
