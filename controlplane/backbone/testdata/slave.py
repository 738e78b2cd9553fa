"""A Backbone slave for tests, written against the AMQP library pika and none of ours.

usage: slave.py URL DIALECT HOST_ID [OPTIONS as JSON]
DIALECT is document, 2014 or 2015. Every message that it receives is a line on standard
output: {"got": opcode, "data": ...}. Options: "apps" (that it has at first), "heartbeat"
and "retry" in seconds, "clock" (seconds that its clock is off), "attempts".
An app named bad never gets installed.
"""
import datetime
import json
import sys
import time

import pika

url, dialect, host_id = sys.argv[1:4]
options = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
heartbeat = options.get("heartbeat", 1.0)
retry = options.get("retry", 0.5)
limit = options.get("attempts", 3)
apps = options.get("apps", {})
desired = None
attempts = 0
offset = options.get("clock", 0)


def say(**line):
    print(json.dumps(line), flush=True)


def contains(current, wanted):
    if isinstance(wanted, dict):
        return isinstance(current, dict) and all(k in current and contains(current[k], v) for k, v in wanted.items())
    return current == wanted


def bare(spec):
    return {k: v for k, v in spec.items() if k in ("version", "running", "service_states", "config")}


def satisfied():
    if desired is None:
        return True
    return set(desired) == set(apps) and all(contains(apps[n], bare(s)) for n, s in desired.items())


def status(channel, state):
    data = {"host_id": host_id, "status": state, "apps": apps,
            "info": {"hostname": "host-" + host_id, "os_family": "Linux", "arch": "x86_64", "os_info": "centos 6.4 Final"}}
    if dialect != "document":
        data["host_agent"] = {"status": "running", "version": "1.0-" + dialect}
        if state != "ok":
            data["desired_apps"] = desired
    if dialect == "2015":
        at = datetime.datetime.utcnow() + datetime.timedelta(seconds=offset)
        data["timestamp"] = str(at)
        data["extensions"] = {"ip_address": {"status": "ok", "data": ["192.0.2.7"]}}
    channel.basic_publish("pf9-bbone", "master", json.dumps({"opcode": "status", "data": data}))


def run(channel):
    """One pass, as every trigger has it."""
    global attempts
    if satisfied():
        status(channel, "ok")
        return
    if dialect != "document" and attempts >= limit:
        status(channel, "failed")
        return
    status(channel, "converging")
    attempts += 1
    good = "bad" not in desired
    for name in [n for n in apps if n not in desired]:
        del apps[name]
    for name, spec in sorted(desired.items(), key=lambda i: float(i[1].get("rank", 0))):
        if name != "bad":
            apps[name] = spec if dialect == "document" else bare(spec)
    if good and satisfied():
        status(channel, "ok")
    elif dialect == "document":
        status(channel, "errors")
    else:
        status(channel, "retrying" if attempts < limit else "failed")


def take(channel, body):
    global desired, attempts
    message = json.loads(body)
    say(got=message["opcode"], data=message.get("data"))
    if message["opcode"] == "set_config":
        desired, attempts = message["data"], 0
    if message["opcode"] in ("set_config", "ping"):
        run(channel)


def consume(connection):
    """Returns a channel from which messages come; None if the queue is not there yet."""
    channel = connection.channel()
    if dialect == "2015":
        queue = "bbslave-q-" + host_id
    else:
        channel.exchange_declare("pf9-bbone", exchange_type="direct", durable=False, auto_delete=False)
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "pf9-bbone", "slaves")
        channel.queue_bind(queue, "pf9-bbone", host_id)
    return channel, queue


def session():
    connection = pika.BlockingConnection(pika.URLParameters(url))
    send = connection.channel()
    receiving = None
    due = 0.0
    while True:
        if receiving is None:
            try:
                channel, queue = consume(connection)
                channel.add_on_cancel_callback(lambda frame: channel.close())
                channel.basic_consume(queue, lambda ch, method, properties, body: take(send, body), auto_ack=True)
                receiving = channel
                say(consuming=queue)
            except pika.exceptions.ChannelClosedByBroker:
                say(waiting=True)
        if send.is_closed:
            send = connection.channel()
        if time.monotonic() >= due:
            run(send)
            due = time.monotonic() + heartbeat
        connection.process_data_events(time_limit=min(retry, heartbeat))
        if receiving is not None and receiving.is_closed:
            receiving = None


while True:
    try:
        session()
    except (pika.exceptions.AMQPError, OSError) as error:
        say(lost=str(error) or type(error).__name__)
        time.sleep(retry)
