"""The FastAPI service: routes parse, call and render; search.py knows no FastAPI."""
