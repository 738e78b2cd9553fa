#!/usr/bin/python3
"""A RackHD program, as far as its AMQP conventions go, that shares no code with
the control plane: python3-pika, Debian's package. It binds all exchanges, asks
every request the way RackHD's messenger does (a reply queue of its own for each,
no correlation id), and checks every property of every message.

Usage: peer.py FACTS.json. It prints one line per check and ends with 1 if any failed.
"""

import json
import sys
import time
import uuid

import pika

NINE = ["on.configuration", "on.events", "on.http", "on.dhcp", "on.tftp", "on.logging",
        "on.task-graph-runner", "on.scheduler", "on.task"]
ALL = NINE + ["on.waterline", "on.test", "on.ssdp", "on.heartbeat"]

facts = json.load(open(sys.argv[1]))
failures = 0
seen = []  # (exchange, key, properties, body)


def check(ok, what, detail=""):
    global failures
    if not ok:
        failures += 1
    print("ok  " if ok else "FAIL", what, detail if not ok else "", flush=True)
    return ok


connection = pika.BlockingConnection(pika.URLParameters(facts["url"]))
channel = connection.channel()
# Declared as every RackHD service does: other properties would close the channel.
for exchange in ALL:
    channel.exchange_declare(exchange, exchange_type="topic", durable=True, auto_delete=False, internal=False)
check(True, "13 exchanges have the exact properties")


def collect(_, method, properties, body):
    seen.append((method.exchange, method.routing_key, properties, body))


inbox = channel.queue_declare("", exclusive=True, auto_delete=True).method.queue
for exchange in ALL:
    channel.queue_bind(inbox, exchange, "#")
channel.basic_consume(inbox, collect, auto_ack=True, exclusive=True)


def properties_of(p, what):
    """What RackHD's services need, and that there is nothing that they do not send."""
    check(p.content_type == "application/json", what + ": content_type", p.content_type)
    check(p.type in ("Object", "Result", "IpAddress", "MacAddress", "ErrorEvent", "LogEvent"), what + ": type", p.type)
    extra = [n for n in ("headers", "correlation_id", "message_id", "timestamp", "expiration", "user_id",
                         "app_id", "content_encoding", "priority", "cluster_id") if getattr(p, n) is not None]
    check(not extra, what + ": no other properties", extra)


times = []  # of all answers, in seconds


def request(exchange, key, body, kind="Object", timeout=10.0, raw=None, content_type="application/json"):
    """Ask as RackHD's messenger: the first message on a queue of our own wins."""
    name = "%s:%s.request:%s" % (exchange, key, uuid.uuid4().hex[:7])
    channel.queue_declare(name, exclusive=True, auto_delete=True)
    got = []
    tag = channel.basic_consume(name, lambda c, m, p, b: got.append((p, b)), auto_ack=True, exclusive=True)
    channel.basic_publish(exchange, key, raw if raw is not None else json.dumps(body),
                          pika.BasicProperties(content_type=content_type, type=kind, reply_to=name))
    began = time.time()
    while not got and time.time() - began < timeout:
        connection.process_data_events(0.02)
    took = time.time() - began
    channel.basic_cancel(tag)
    if not got:
        return None, None, took
    times.append(took)
    return got[0][0], json.loads(got[0][1]), took


def ask(exchange, key, body, kind="Object", answer="Result", **more):
    what = "%s %s" % (exchange, key)
    p, reply, took = request(exchange, key, body, kind, **more)
    if not check(reply is not None, what + ": answered"):
        return None
    properties_of(p, what)
    check(p.type == answer, what + ": answer is " + answer, (p.type, reply))
    check(isinstance(reply, dict), what + ": answer is an object", reply)
    if answer == "ErrorEvent":
        check(all(isinstance(reply.get(k), t) for k, t in
                  (("name", str), ("message", str), ("stack", str), ("context", dict))), what + ": ErrorEvent complete", reply)
        return reply
    return reply.get("value")


def publish(exchange, key, body, kind="Object"):
    channel.basic_publish(exchange, key, json.dumps(body), pika.BasicProperties(content_type="application/json", type=kind))


def wait_for(exchange, key, timeout=20.0, want=1):
    """Wait for messages with exactly this key and return their bodies."""
    end = time.time() + timeout
    while time.time() < end:
        found = [(p, b) for e, k, p, b in seen if e == exchange and k == key and not (p.reply_to)]
        if len(found) >= want:
            what = "%s %s" % (exchange, key)
            for p, _ in found:
                properties_of(p, what)
            bodies = [json.loads(b) for _, b in found]
            check(all(isinstance(b, dict) for b in bodies), what + ": published, an object")
            return bodies
        connection.process_data_events(0.05)
    check(False, "%s %s: published" % (exchange, key), sorted({k for e, k, _, _ in seen if e == exchange}))
    return [{}]


node, chassis = facts["node"], facts["chassis"]

# on.configuration
value = ask("on.configuration", "methods.get", {"key": "events.heartbeat_seconds"})
check(value == 1, "get one setting", value)
value = ask("on.configuration", "methods.get", {})
check(isinstance(value, dict) and value.get("log.level") == "silly", "get all settings", value)
check(ask("on.configuration", "methods.set", {"key": "boot.kernel_args", "value": "console=ttyS1"}) == "console=ttyS1", "set")
check(ask("on.configuration", "methods.get", {"key": "boot.kernel_args"}) == "console=ttyS1", "set and got")
e = ask("on.configuration", "methods.set", {"key": "log.level", "value": "loud"}, answer="ErrorEvent")
check(e and e["name"] == "BadRequestError" and "silly" in e["message"], "wrong value is refused", e)
e = ask("on.configuration", "methods.get", {"key": "nonsense"}, answer="ErrorEvent")
check(e and e["name"] == "NotFoundError", "unknown key is refused", e)

# on.dhcp
ip, mac = facts["ip"], facts["mac"]
value = ask("on.dhcp", "methods.lookupIpLease", {"value": ip}, "IpAddress", "MacAddress")
check(value == mac, "lookupIpLease", value)
check(ask("on.dhcp", "methods.lookupIpLease", {"value": facts["free"]}, "IpAddress") == {}, "lookupIpLease of a free address")
e = ask("on.dhcp", "methods.lookupIpLease", {"value": ip}, "Object", "ErrorEvent")
check(e and e["message"].startswith("Invalid Request Type (Object)"), "lookupIpLease with another type", e)
e = ask("on.dhcp", "methods.lookupIpLease", {"value": "not an address"}, "IpAddress", "ErrorEvent")
check(e and "JSON Schema Violation" in e["message"], "lookupIpLease of no address", e)
e = ask("on.dhcp", "methods.pinMac", {"value": "02-00"}, "MacAddress", "ErrorEvent")
check(e and "JSON Schema Violation" in e["message"], "pinMac of no address", e)
check(ask("on.dhcp", "methods.ipInRange", {"value": ip}, "IpAddress") is True, "ipInRange")
check(ask("on.dhcp", "methods.ipInRange", {"value": "192.0.2.250"}, "IpAddress") is False, "ipInRange outside")
table = ask("on.dhcp", "methods.peekLeaseTable", {})
check([(l["ip"], l["mac"], l["pinned"]) for l in table] == [(ip, mac, False)], "peekLeaseTable", table)
check(ask("on.dhcp", "methods.pinMac", {"value": mac}, "MacAddress") == mac, "pinMac")
check(ask("on.dhcp", "methods.peekLeaseTable", {})[0]["pinned"] is True, "pinned")
check(ask("on.dhcp", "methods.unpinMac", {"value": mac}, "MacAddress") is True, "unpinMac")
check(ask("on.dhcp", "methods.pinIp", {"value": ip}, "IpAddress") == ip, "pinIp")
check(ask("on.dhcp", "methods.unpinIp", {"value": ip}, "IpAddress") is True, "unpinIp")
check(ask("on.dhcp", "methods.unpinIp", {"value": ip}, "IpAddress") is False, "unpinIp again")
check(ask("on.dhcp", "methods.removeLeaseByIp", {"value": facts["free"]}, "IpAddress") is False, "removeLeaseByIp of none")
check(ask("on.dhcp", "methods.removeLeaseByIp", {"value": ip}, "IpAddress") is True, "removeLeaseByIp")
check(ask("on.dhcp", "methods.removeLease", {"value": mac}, "MacAddress") is False, "removeLease of none")

# on.task-graph-runner: the library
graph = {"injectableName": "Graph.Peer", "friendlyName": "Of the peer", "tasks": [
    {"label": "one", "taskName": "Task.Peer"}, {"label": "two", "taskName": "Task.Peer", "waitOn": {"one": "succeeded"}}]}
task = {"injectableName": "Task.Peer", "friendlyName": "Of the peer", "runJob": "Job.Peer", "options": {"seconds": 0}}
runner = "on.task-graph-runner"
e = ask(runner, "methods.defineTaskGraph", {"definition": graph}, answer="ErrorEvent")
check(e and "Task.Peer" in e["message"], "a graph of unknown tasks is refused", e)
check(ask(runner, "methods.defineTask", {"definition": task}) == "Task.Peer", "defineTask")
check(ask(runner, "methods.defineTaskGraph", {"definition": graph}) == "Graph.Peer", "defineTaskGraph")
names = [g["injectableName"] for g in ask(runner, "methods.getTaskGraphLibrary", {})]
check("Graph.Peer" in names and "Graph.Decommission" in names, "getTaskGraphLibrary", names)
found = ask(runner, "methods.getTaskGraphLibrary", {"filter": {"injectableName": "Graph.Peer"}})
check(len(found) == 1 and found[0]["tasks"][1]["waitOn"], "getTaskGraphLibrary with a filter", found)
names = [g["injectableName"] for g in ask(runner, "methods.getTaskLibrary", {"filter": {}})]
check("Task.Peer" in names and "Task.Agent.DiskErase" in names, "getTaskLibrary", names)

# a graph from begin to end, and what is told of it
e = ask(runner, "methods.runTaskGraph", {"name": "Graph.Missing", "target": node}, answer="ErrorEvent")
check(e and e["name"] == "NotFoundError", "an unknown graph is refused", e)
e = ask(runner, "methods.runTaskGraph", {"name": "Graph.Peer", "target": "f" * 24}, answer="ErrorEvent")
check(e and e["name"] == "NotFoundError", "an unknown node is refused", e)
g = ask(runner, "methods.runTaskGraph", {"name": "Graph.Peer", "options": {"defaults": {"seconds": 1}}, "target": node})
gid = g["instanceId"]
active = ask(runner, "methods.getActiveTaskGraphs", {})
check([a["instanceId"] for a in active] == [gid] and active[0]["node"] == node, "getActiveTaskGraphs", active)
active = ask(runner, "methods.getActiveTaskGraph", {"filter": {"target": node}})
check(active and active["instanceId"] == gid and len(active["tasks"]) == 2, "getActiveTaskGraph", active)
p = ask(runner, "methods.getTaskGraphProperties", {"graphId": gid})
check(p["injectableName"] == "Graph.Peer" and p["domain"] == "default", "getTaskGraphProperties", p)
for domain_key in ("methods.runTaskGraph.default",):
    bodies = wait_for(runner, domain_key)
    check({"graphId": gid} in bodies, domain_key, bodies)
begin = wait_for("on.events", "graph.started." + gid)[0]
check(begin == {"graphId": gid, "graphName": "Graph.Peer", "status": "running"}, "graph.started", begin)
running = ask("on.task", "methods.activeTaskExists." + node, {})
check(running and running["graphId"] == gid and running["state"] == "running", "activeTaskExists", running)
properties = ask("on.task", "methods.requestProperties." + node, {})
check(properties["nodeId"] == node and properties["task"]["graphId"] == gid, "requestProperties", properties)
tid = running["taskId"]
run = wait_for("on.task", "run." + tid)[0]
check(run["value"]["taskId"] == tid, "run.<taskId>", run)
wait_for("on.task", "methods.run." + tid)
check({"taskId": tid, "graphId": gid} in wait_for("on.task", "default.methods.run"), "<domain>.methods.run")
done = wait_for("on.events", "task.finished." + tid)[0]
check(done["state"] == "succeeded" and done["taskName"] == "Task.Peer" and done["graphId"] == gid and
      done["context"]["target"] == node and done["context"]["graphId"] == gid and isinstance(done["terminalOnStates"], list),
      "task.finished", done)
check(done in wait_for("on.events", "default.task.finished"), "<domain>.task.finished")
end = wait_for("on.events", "graph.finished." + gid)[0]
check(end == {"graphId": gid, "graphName": "Graph.Peer", "status": "succeeded"}, "graph.finished", end)


def external(key, typ, action, severity, type_id, of_node):
    e = wait_for("on.events", key)[-1]
    check(sorted(e) == sorted(["version", "type", "action", "severity", "typeId", "nodeId", "createdAt", "data"]) and
          (e["version"], e["type"], e["action"], e["severity"], e["typeId"], e["nodeId"]) ==
          ("1.0", typ, action, severity, type_id, of_node) and isinstance(e["data"], dict) and
          time.strptime(e["createdAt"][:19], "%Y-%m-%dT%H:%M:%S") and e["createdAt"][-1] == "Z" and len(e["createdAt"]) == 24,
          key + ": external format 1.0", e)
    return e["data"]


external("graph.started.information.%s.%s" % (gid, node), "graph", "started", "information", gid, node)
data = external("graph.finished.information.%s.%s" % (gid, node), "graph", "finished", "information", gid, node)
check(data["status"] == "succeeded", "graph.finished external data", data)

# pause, resume, cancel
slow = {"name": "Graph.Peer", "options": {"defaults": {"seconds": 60}}, "target": node}
g2 = ask(runner, "methods.runTaskGraph", slow)["instanceId"]
check(ask(runner, "methods.pauseTaskGraph", {"graphId": g2}) == g2, "pauseTaskGraph")
check(ask(runner, "methods.getTaskGraphProperties", {"graphId": g2})["paused"] is True, "paused")
check(ask(runner, "methods.resumeTaskGraph", {"graphId": g2}) == g2, "resumeTaskGraph")
check(ask(runner, "methods.getTaskGraphProperties", {"graphId": g2})["paused"] is False, "resumed")
check(ask(runner, "methods.cancelTaskGraph", {"graphId": g2}) == g2, "cancelTaskGraph")
check(wait_for("on.events", "graph.finished." + g2)[0]["status"] == "cancelled", "cancelled")
check(ask(runner, "methods.cancelTaskGraph", {"graphId": g2}) is None, "cancelTaskGraph of one that has ended")
check(ask(runner, "methods.getActiveTaskGraph", {"filter": {"target": node}}) is None, "no active graph")
p, reply, _ = request("on.task", "methods.activeTaskExists." + node, {}, timeout=1.0)
check(reply is None, "activeTaskExists is silent without a task", reply)

# cancel of a task: under the document's name, that of 0.1.93, that of 2.x
for n, cancel in enumerate((lambda t: publish("on.task", "cancel." + t, {}),
                            lambda t: publish("on.task", "methods.cancel." + t, {"value": {}}, "Result"),
                            lambda t: publish("on.task", "methods.cancel", {"taskId": t}))):
    g3 = ask(runner, "methods.runTaskGraph", slow)["instanceId"]
    wait_for("on.events", "graph.started." + g3)
    t3 = ask("on.task", "methods.activeTaskExists." + node, {})["taskId"]
    cancel(t3)
    check(wait_for("on.events", "graph.finished." + g3)[0]["status"] == "cancelled", "cancel %d of a task" % n)
    check(wait_for("on.events", "task.finished." + t3)[0]["state"] == "cancelled", "cancel %d is told" % n)
    wait_for("on.task", "cancel." + t3)
    wait_for("on.task", "methods.cancel." + t3)
    check({"taskId": t3} in wait_for("on.task", "methods.cancel"), "methods.cancel %d" % n)

# 2.x publishes where the document asks
publish(runner, "methods.runTaskGraph.default", {"name": "Graph.Peer", "target": node, "options": {}})
publish(runner, "methods.runTaskGraph.default", {"graphId": g3})  # of 2.x: it is there, and has ended
end = time.time() + 10
while time.time() < end and not [1 for e, k, _, b in seen if e == "on.events" and k.startswith("graph.finished.") and
                                 k.count(".") == 2 and k.split(".")[2] not in (gid, g2) and json.loads(b)["status"] == "succeeded"]:
    connection.process_data_events(0.05)
check(time.time() < end, "runTaskGraph.<domain> by name runs it")

# on.scheduler
publish("on.scheduler", "schedule", {"taskId": str(uuid.uuid4()), "taskName": "Task.Peer", "overrides": {"target": node, "seconds": 0}})
end = time.time() + 10
while time.time() < end and not [1 for e, k, _, b in seen if k.startswith("graph.finished.") and b"Graph.Of.Peer" in b]:
    connection.process_data_events(0.05)
check(time.time() < end, "on.scheduler schedule runs a task")

# on.task: profiles and commands
check(ask("on.task", "methods.requestProfile." + node, {}) == "ipxe", "requestProfile")
check(ask("on.task", "methods.getBootProfile." + node, {}) == "ipxe", "getBootProfile")
check(ask("on.task", "methods.requestCommands." + node, {}) == {}, "requestCommands: nothing to do")
g4 = ask(runner, "methods.runTaskGraph", {"name": "Graph.ShellCommands", "target": node, "options": {
    "commands": {"commands": ["uname -a", {"command": "lshw -json", "catalog": {"format": "json", "source": "lshw"}},
                              {"command": "false", "acceptedResponseCodes": [1]}]}}})["instanceId"]
wait_for("on.events", "graph.started." + g4)
todo = ask("on.task", "methods.requestCommands." + node, {})
check(todo == {"identifier": node, "tasks": [
    {"cmd": "uname -a"}, {"cmd": "lshw -json", "catalog": True, "source": "lshw", "format": "json"},
    {"cmd": "false", "acceptedResponseCodes": [1]}]}, "requestCommands", todo)
check(ask("on.task", "methods.requestCommands." + node, {}) == todo, "requestCommands: again until reported")
for t in todo["tasks"]:
    t.update(stdout="out", stderr="", error=None)
todo["tasks"][2]["error"] = {"code": 1, "killed": False, "signal": None, "cmd": "/bin/sh -c false"}
publish("on.task", "methods.respondCommands." + node, {"value": todo}, "Result")
publish("on.task", "methods.respondCommands." + node, {"value": todo}, "Result")
check(wait_for("on.events", "graph.finished." + g4)[0]["status"] == "succeeded", "respondCommands")
e = ask("on.task", "methods.respondCommands." + node, {"value": {"identifier": node, "tasks": [{"cmd": "other"}]}}, "Result", "ErrorEvent")
check(e and e["name"] == "ConflictError", "respondCommands of what was not given", e)
for key in ("requestProfile", "requestProperties", "requestCommands", "getBootProfile"):
    e = ask("on.task", "methods.%s.%s" % (key, "f" * 24), {}, answer="ErrorEvent")
    check(e and e["name"] == "NotFoundError", key + " of an unknown node", e)

# on.task: hardware
result = ask("on.task", "methods.requestPollerCache", {"value": facts["poller"], "options": {}}, "Result")
check(result == facts["poller_result"], "requestPollerCache", result)
e = ask("on.task", "methods.requestPollerCache", {"value": str(uuid.uuid4())}, "Result", "ErrorEvent")
check(e and e["name"] == "NotFoundError", "requestPollerCache of an unknown poller", e)
for command in ("power", "sel", "sdr"):
    work = str(uuid.uuid4())
    publish("on.task", "ipmi.command.%s.%s" % (command, gid),
            {"value": {"host": "192.0.2.66", "user": "u", "password": "p", "node": node, "workItemId": work}}, "Result")
    r = wait_for("on.task", "ipmi.command.%s.result.%s" % (command, gid))[0]["value"]
    check(r.get(command) == facts["ipmi"][command] and r["workItemId"] == work and r["node"] == node and "password" not in r,
          "ipmi.command.%s" % command, r)
publish("on.task", "ipmi.command.power." + g4, {"value": {"host": "192.0.2.66", "node": "f" * 24, "workItemId": "w"}}, "Result")
r = wait_for("on.task", "ipmi.command.power.result." + g4)[0]["value"]
check(r["error"]["name"] == "NotFoundError" and "power" not in r, "ipmi.command of an unknown node: its result has the error", r)
publish("on.task", "run.snmp.command." + gid, {"value": {"host": "pdu1", "community": "x", "workItemId": "w", "oids": ["1.3.6.1.2.1.1.5.0"]}}, "Result")
r = wait_for("on.task", "snmp.command.result." + gid)[0]["value"]
check(r.get("result") == facts["snmp"] and r["host"] == "pdu1" and "community" not in r, "run.snmp.command", r)

# on.events: what the control plane was made to see by the test
expected = facts["notices"]
for key, body in expected.items():
    got = wait_for("on.events", key)
    check(body in got, key, got)
check(expected["http.response." + node] in wait_for("on.http", "http.response"), "on.http http.response")
for action in ("discovered", "added", "accessible", "inaccessible", "updated", "removed", "sku.assigned"):
    data = external("node.%s.information.%s.%s" % (action, node, node), "node", action, "information", node, node)
    check(data["nodeType"] == "compute" and data["nodeId"] == node, "node." + action, data)
alert = facts["alert"]
external("polleralert.sel.updated.critical.%s.%s" % (facts["poller"], node), "polleralert", "sel.updated", "critical", facts["poller"], node)
check(wait_for("on.events", "poller.alert." + facts["poller"])[0] == {"value": alert}, "poller.alert.<id>")
check(wait_for("on.events", "poller.alert.sel." + facts["poller"])[0] == {"value": alert}, "poller.alert.<name>.<id>")
beat = facts["heartbeat"]
data = external(beat, "heartbeat", "updated", "information", beat.split(".", 3)[3], None)
check(all(k in data for k in ("name", "title", "pid", "uid", "platform", "release", "versions", "memoryUsage", "currentTime",
                              "nextUpdate", "lastUpdate", "cpuUsage")), "heartbeat data", data)
wait_for("on.events", beat, want=3)

# on.logging
for key, level in (("emerg", "critical"), ("alert", "critical"), ("critical", "critical"), ("error", "error"), ("warning", "warning"),
                   ("notice", "info"), ("info", "info"), ("debug", "debug"), ("silly", "debug")):
    bodies = [b for b in wait_for("on.logging", key) if b["message"].startswith("test ")]
    check(bodies and all(b["level"] == level and sorted(b) == sorted(["package", "host", "level", "message", "context",
          "timestamp", "caller", "subject"]) for b in bodies), "on.logging " + key, bodies)
for e, k, p, b in seen:
    if e == "on.logging":
        check(p.type == "LogEvent", "log messages have type LogEvent", (k, p.type)) if p.type != "LogEvent" else None

# hostile messages: refused, and nobody is hurt
deep = '{"a":' * 70 + "{}" + "}" * 70
for what, raw, content_type in (("not JSON", "}{", "application/json"), ("a text", '"x"', "application/json"), ("an array", "[]", "application/json"),
                                ("nothing", "", "application/json"), ("too deep", deep, "application/json"), ("not UTF-8", b'{"a":"\xff"}', "application/json"),
                                ("another type", "{}", "application/octet-stream")):
    e = ask("on.configuration", "methods.get", None, raw=raw, content_type=content_type, answer="ErrorEvent")
    check(e and e["name"] == "BadRequestError", "hostile: " + what, e)
p, reply, _ = request("on.configuration", "methods.get", None, raw='{"key":"%s"}' % ("x" * (2 << 20)), timeout=1.0)
check(reply is None, "hostile: 2 MiB are dropped", reply and reply.get("name"))
for key in ("graphId", "name", "target", "options", "filter"):
    for value in (1, [], "x" * 5000, {"a": 1}, None, True):
        for method in ("runTaskGraph", "cancelTaskGraph", "getActiveTaskGraphs", "getTaskGraphProperties", "defineTask"):
            publish(runner, "methods." + method, {key: value})
for i in range(50):
    publish("on.task", "cancel." + "x" * 200, {})
    publish("on.task", "methods.requestCommands.%25", {})
    publish("on.task", "ipmi.command.x.y", {"value": None})
    publish("on.scheduler", "schedule", {"taskName": ["x"], "overrides": 5})
time.sleep(0.5)
check(ask("on.configuration", "methods.get", {"key": "log.bus"}) is True, "still answers after hostile messages")

types = {(p.type, p.content_type) for _, _, p, b in seen if not p.reply_to}
check(all(c == "application/json" for t, c in types), "every message seen has the exact content type", types)
# RackHD's messenger gives up after 1 s.
print("     %d answers, median %.1f ms, slowest %.0f ms" % (len(times), 1000 * sorted(times)[len(times) // 2], 1000 * max(times)))
check(sorted(times)[len(times) // 2] < 0.5 and len([t for t in times if t > 1]) < len(times) / 20, "answers within 1 s", sorted(times)[-10:])
connection.close()
sys.exit(1 if failures else 0)
