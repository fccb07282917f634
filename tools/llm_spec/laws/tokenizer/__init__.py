"""Laws of tokenizers: functions from mlx-lm's wrapper of one to a finding."""
