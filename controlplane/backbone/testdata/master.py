"""An original Backbone master for tests: it declares as the original does, and never
again if that fails.

usage: master.py URL NAME
Lines on standard input are {"to": host_id, "data": apps}; on standard output
{"status": data} of every status, and {"error": ...} when the original would be lost.
"""
import json
import select
import sys

import pika

url, name = sys.argv[1:3]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()


def say(**line):
    print(json.dumps(line), flush=True)


def receive(ch, method, properties, body):
    message = json.loads(body)
    if message["opcode"] == "status":
        say(status=message["data"])


try:
    channel.exchange_declare("pf9-bbone", exchange_type="direct", durable=False, auto_delete=False, internal=False)
    queue = "bbmaster-q-" + name
    channel.queue_declare(queue, durable=False, exclusive=False, auto_delete=False)
    channel.queue_bind(queue, "pf9-bbone", "master")
    channel.basic_consume(queue, receive, auto_ack=True)
    channel.basic_publish("pf9-bbone", "slaves", json.dumps({"opcode": "ping"}))
    say(ready=True)
    while True:
        connection.process_data_events(time_limit=0.1)
        while select.select([sys.stdin], [], [], 0)[0]:
            line = sys.stdin.readline()
            if not line:
                sys.exit(0)
            order = json.loads(line)
            slave = "bbslave-q-" + order["to"]
            channel.queue_declare(slave, durable=False, exclusive=False, auto_delete=False)
            channel.queue_bind(slave, "pf9-bbone", "slaves")
            channel.queue_bind(slave, "pf9-bbone", order["to"])
            channel.basic_publish("pf9-bbone", order["to"], json.dumps({"opcode": "set_config", "data": order["data"]}))
            say(sent=order["to"])
except pika.exceptions.AMQPError as error:
    say(error=repr(error))
    raise
