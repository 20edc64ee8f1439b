"""The one schema room: everything that lies on disk or goes over the wire has its shape here.

records.py  journal payloads and what the gateway logs
tables.py   Arrow schemas of the Delta tables
rows.py     dataset rows, catalogue tools, evaluation items
"""
