"""What people look at: tables, plots and pages made of leaderboards and reports."""
