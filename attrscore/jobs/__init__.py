"""One job: settings, their objects, the conditions missing, the results folder."""
