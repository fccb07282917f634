"""Laws of models: functions from a case to a finding."""
