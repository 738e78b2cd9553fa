// A node of its own making, for the test of the tasks API: it does what released
// RackHD nodes do on the wire, and knows nothing of ours. Chunked posts with a
// newline at the end, no stdout where a command has failed, null where none has,
// the rest of the list untouched, the same object posted back.
//
//   node client.js HOST PORT PATH
const http = require('http');
const { execFile } = require('child_process');
const [, , host, port, path] = process.argv;

function ask(method, body, done) {
  const req = http.request({ host, port, path, method, headers: body ? { 'Content-Type': 'application/json' } : {} }, (res) => {
    let text = '';
    res.on('data', (part) => { text += part; });
    res.on('end', () => done(null, res.statusCode, text));
  });
  req.on('error', (err) => done(err));
  if (body) { req.write(body); req.write('\n'); }
  req.end();
}

function look() {
  ask('GET', null, (err, status, text) => {
    let todo;
    try { todo = JSON.parse(text); } catch (e) { todo = {}; }
    if (err || !todo.tasks) { return setTimeout(look, 50); }
    next(todo, 0);
  });
}

function next(todo, i) {
  const task = todo.tasks[i];
  if (!task) { return report(todo, 1); }
  execFile('/bin/sh', ['-c', task.cmd], { maxBuffer: 5 << 20 }, (err, stdout, stderr) => {
    if (err) {
      task.error = { code: err.code, killed: err.killed, signal: err.signal, cmd: err.cmd };
      if (!(task.acceptedResponseCodes || []).includes(err.code)) { return report(todo, 1); }
    } else {
      task.stdout = stdout;
      task.stderr = stderr;
      task.error = null;
    }
    next(todo, i + 1);
  });
}

function report(todo, n) {
  ask('POST', JSON.stringify(todo), (err) => {
    if (err) { return setTimeout(() => report(todo, n + 1), 50 * n); }
    console.log('posted');
    if (todo.exit !== undefined) { process.exit(todo.exit.code || Number(todo.exit) || 0); }
    setTimeout(look, 50);
  });
}

look();
