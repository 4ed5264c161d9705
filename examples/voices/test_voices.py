"""Tests of the data, the judges and eval.py: python3 -m unittest, standard library only."""

import contextlib
import http.server
import io
import json
import pathlib
import sqlite3
import struct
import threading
import unittest

import checks
import data
import eval as evaluation
from tasks import sandbox, words

ADAPTERS = pathlib.Path(__file__).parent.parent / "adapters"


class Data(unittest.TestCase):
    def test_committed_heldout_is_what_the_script_makes(self):
        for voice in data.TASKS:
            made = data.sample(voice, data.HELDOUT_SEED, "heldout", 50)
            self.assertEqual(json.loads(json.dumps(made)), data.load_heldout(voice), voice)

    def test_reference_answers_are_right(self):
        for voice in data.TASKS:
            for item in data.sample(voice, 7, "heldout", 200):
                self.assertEqual(checks.CHECKS[voice](item, item["answer"]), "", item["prompt"])

    def test_splits_share_no_words(self):
        for pool in (words.FIRST, words.LAST, words.PLACE, words.COLOUR, words.THING, words.TOPIC):
            self.assertFalse(set(pool["train"]) & set(pool["heldout"]))


class Judges(unittest.TestCase):
    RECORD = {"event": "sale", "person": "Ana Costa", "item": "blue lamps", "quantity": 3, "place": "Porto",
              "date": "2026-03-05", "price": 42, "currency": "EUR"}
    BASE = {"create": "CREATE TABLE cars (name TEXT, price INTEGER)", "table": "cars", "rows": [["a", 1], ["b", 2]]}

    def test_json(self):
        item, right = {"record": self.RECORD}, json.dumps(self.RECORD)
        self.assertEqual(checks.json_record(item, f"```json\n{right}\n```"), "")
        for wrong in ("", "[]", "Sure! " + right, right.replace("42", "43"), right.replace("3,", "true,"),
                      json.dumps({**self.RECORD, "more": 1})):
            self.assertTrue(checks.json_record(item, wrong), wrong)

    def test_sql_select(self):
        item = {"answer": "SELECT name FROM cars ORDER BY price", "databases": [self.BASE]}
        self.assertEqual(checks.sql_statement(item, "select name from cars order by price asc;"), "")
        for wrong in ("", "SELECT name FROM cars ORDER BY price DESC", "SELECT nothing FROM cars", "hello", "SELECT 1; SELECT 2"):
            self.assertTrue(checks.sql_statement(item, wrong), wrong)

    def test_sql_insert(self):
        item = {"record": {"event": "meeting", "person": "A", "item": "b", "quantity": None}, "answer": ""}
        self.assertEqual(checks.sql_statement(item, "INSERT INTO meetings (item, person) VALUES ('b', 'A')"), "")
        self.assertTrue(checks.sql_statement(item, "INSERT INTO meetings (item) VALUES ('b')"))

    def test_sandbox_refuses(self):
        for statement in ("DROP TABLE cars", "ATTACH 'x.db' AS x", "DELETE FROM cars", "PRAGMA user_version",
                          "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"):
            with self.assertRaises(sqlite3.Error, msg=statement):
                sandbox.rows_of(statement, self.BASE)

    def test_pirate(self):
        item = {"mention": ["Porto"]}
        self.assertEqual(checks.pirate_speech(item, "Arr, I be from Porto, matey!"), "")
        for wrong in ("I am from Porto.", "Arr, from Porto, matey!", "Arr, I be from Rome, matey!",
                      "Arr, I be from Porto" + " so" * 90 + ", matey!"):
            self.assertTrue(checks.pirate_speech(item, wrong), wrong)

    def test_same(self):
        self.assertEqual(checks.same({"answer": "none"}, " none\n"), "")
        self.assertTrue(checks.same({"answer": "none"}, "None."))


class Adapters(unittest.TestCase):
    def test_files(self):
        """bf16 throughout, at most 3 MB, ranks and modules as the config says."""
        shapes = set()
        for voice in data.TASKS:
            config = json.loads((ADAPTERS / voice / "adapter_config.json").read_text())
            self.assertEqual(config["base_model_name_or_path"], "HuggingFaceTB/SmolLM2-135M-Instruct")
            blob = (ADAPTERS / voice / "adapter_model.safetensors").read_bytes()
            self.assertLessEqual(len(blob), 3_000_000)
            header = json.loads(blob[8:8 + struct.unpack("<Q", blob[:8])[0]])
            header.pop("__metadata__")
            self.assertEqual({tensor["dtype"] for tensor in header.values()}, {"BF16"})
            for name, tensor in header.items():
                rank = config["rank_pattern"].get(name.split(".")[-3], config["r"])
                self.assertEqual(tensor["shape"][0 if "lora_A" in name else 1], rank, name)
            shapes.add((config["r"], str(sorted(config["target_modules"]))))
        self.assertEqual(len(shapes), 5)


class Evaluation(unittest.TestCase):
    def test_against_a_server(self):
        """A server that knows every reference answer, and whose base knows none."""
        known = {(voice, item["prompt"]): item["answer"] for voice in data.TASKS for item in data.load_heldout(voice)}

        class Handler(http.server.BaseHTTPRequestHandler):
            def reply(self, body):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def do_GET(self):
                self.reply({"data": [{"id": "smollm2"}, {"id": "json", "parent": "smollm2"}]})

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = known.get((asked["model"], asked["messages"][0]["content"]), "I do not know.")
                self.reply({"choices": [{"message": {"content": answer}}]})

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 64  # its default of 5 resets some of the connections made at once

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                url = f"http://127.0.0.1:{server.server_port}"
                code = evaluation.main(["--url", url, "--items", "4", "--json", "--check", "--told"])
        finally:
            server.shutdown()
            server.server_close()
        scores = json.loads(out.getvalue())
        self.assertEqual(code, 0)
        for voice in data.TASKS:
            self.assertEqual([scores[voice][c]["right"] for c in ("adapter", "base", "base told")], [4, 0, 0], voice)


if __name__ == "__main__":
    unittest.main()
