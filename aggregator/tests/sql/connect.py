"""What an ordinary user of clickhouse-connect does, against the read-only ClickHouse interface."""

import json
import sys

import clickhouse_connect
from clickhouse_connect.driver.exceptions import DatabaseError

address, password, rows = sys.argv[1:4]
host, port = address.rsplit(":", 1)
client = clickhouse_connect.get_client(
    host=host, port=int(port), username="viewer", password=password, database="etcdmon"
)
assert client.ping()
count = client.query("SELECT count() FROM metrics").result_rows[0][0]
assert count == int(rows), count

# Types of the tables, over the native format.
result = client.query(
    "SELECT at, agent, name, member, value, map('a', toUInt64(1)) AS m, [1, 2] AS l, toNullable(1) AS n "
    "FROM metrics WHERE name = {name:String} ORDER BY at LIMIT 100",
    parameters={"name": "etcd_1"},
)
assert len(result.result_rows) == 100, len(result.result_rows)
first = dict(zip(result.column_names, result.result_rows[0]))
assert first["name"] == "etcd_1" and first["m"] == {"a": 1} and list(first["l"]) == [1, 2], first

# Many blocks, read as they come.
with client.query_row_block_stream("SELECT number, toString(number) FROM numbers(300000)") as stream:
    assert sum(len(block) for block in stream) == 300000

tables = [row[0] for row in client.query("SELECT name FROM system.tables WHERE database = 'etcdmon'").result_rows]
assert "metrics" in tables, tables
assert "metrics" in client.command("SHOW TABLES"), "SHOW TABLES"
assert client.raw_query("SELECT 1 AS n", fmt="JSONEachRow") == b'{"n":1}\n'

for statement in ["DROP TABLE metrics", "SELECT file('/etc/passwd')", "SELECT * FROM system.processes"]:
    try:
        client.command(statement)
    except DatabaseError as error:
        assert "497" in str(error) or "not allowed" in str(error), error
    else:
        raise AssertionError(statement)
client.close()
print(json.dumps({"rows": count, "version": clickhouse_connect.__version__ if hasattr(clickhouse_connect, "__version__") else ""}))
