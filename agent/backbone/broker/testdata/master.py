"""A Backbone master for tests, with another AMQP library: python3-pika.

master.py URL DIALECT HOST...

Dialects are "document" (an exclusive queue of its own, slaves have theirs) and "2015"
(declares a slave's queue before every message to it). What it receives it prints, one
JSON text a line. It reads one JSON object a line: {"to": key, "body": text}; with
"declare": host id, that host's queue is declared and bound first, as the dialect of
2015 does. {"delete": queue} deletes a queue. It sends nothing of its own accord but a
ping to all slaves when it has connected.
"""

import json
import sys
import threading

import pika

url, dialect = sys.argv[1:3]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.exchange_declare(exchange="pf9-bbone", exchange_type="direct")


def declare(queue, *keys, exclusive=False):
    name = channel.queue_declare(queue=queue, exclusive=exclusive).method.queue
    for key in keys:
        channel.queue_bind(exchange="pf9-bbone", queue=name, routing_key=key)
    return name


if dialect == "document":
    mine = declare("", "master", exclusive=True)
else:
    mine = declare("bbmaster-q-test", "master")


def received(ch, method, properties, body):
    odd = [k for k, v in vars(properties).items() if v is not None]
    if odd or method.exchange != "pf9-bbone":
        print(json.dumps({"odd": odd, "exchange": method.exchange}), flush=True)
    print(body.decode(), flush=True)


channel.basic_consume(queue=mine, on_message_callback=received, auto_ack=True)


def send(order):
    if "delete" in order:
        connection.channel().queue_delete(order["delete"])
        return
    if "declare" in order:
        declare("bbslave-q-" + order["declare"], "slaves", order["declare"])
    channel.basic_publish(exchange="pf9-bbone", routing_key=order["to"], body=order["body"])


def orders():
    for line in sys.stdin:
        order = json.loads(line)
        connection.add_callback_threadsafe(lambda order=order: send(order))
    connection.add_callback_threadsafe(channel.stop_consuming)


threading.Thread(target=orders, daemon=True).start()
channel.basic_publish(exchange="pf9-bbone", routing_key="slaves", body=json.dumps({"opcode": "ping"}))
print(json.dumps({"ready": mine}), flush=True)
channel.start_consuming()
