"""One thin file a Prefect flow; flows/steps/ holds the logic and knows no Prefect."""
