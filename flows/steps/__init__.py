"""The logic of the flows; knows no Prefect."""
