"""The plan: tasks with their agencies, targets as queries over what the house measures, reports, and scores."""
