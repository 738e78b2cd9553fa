// Fetches commands from the control plane, runs them one after the other, and
// posts how they went, for ever or until the control plane says to exit. For Node,
// without packages.
const { exec } = require('child_process');
const fs = require('fs');
const http = require('http');
const https = require('https');
const path = require('path');

const unit = Number(process.env.TEETH_UNIT_MS || 1000); // one second; tests shorten it
const pause = 5 * unit;
const longest = 60 * unit;
const output = 5 * 1024 * 1024; // bytes of one command
const report = 31 * 1024 * 1024; // bytes
const answer = 64 * 1024 * 1024; // bytes of one answer

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// request resolves to {status, body}, and rejects when there is no whole answer.
function request(method, url, body) {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) };
    const req = (url.startsWith('https:') ? https : http).request(url, { method, headers, timeout: longest }, (res) => {
      const parts = [];
      let size = 0;
      res.on('data', (part) => {
        parts.push(part);
        if ((size += part.length) > answer) { req.destroy(new Error('the answer is too long')); }
      });
      res.on('end', () => (res.complete ? resolve({ status: res.statusCode, body: Buffer.concat(parts) }) : reject(new Error('the answer was cut off'))));
      res.on('error', reject);
    });
    req.on('timeout', () => req.destroy(new Error('no answer in time')));
    req.on('error', reject);
    req.end(body);
  });
}

// download saves a file beside us, under the last part of its path.
async function download(from) {
  const url = new URL(from, settings.url);
  const name = path.posix.basename(decodeURIComponent(url.pathname));
  if (!name || name === '.' || name === '..' || name.includes('\0')) { throw new Error('downloadUrl ' + from + ' names no file'); }
  const got = await request('GET', url.toString());
  if (got.status !== 200) { throw new Error('downloadUrl ' + from + ': status ' + got.status); }
  fs.rmSync(name, { force: true });
  fs.writeFileSync(name, got.body, { mode: 0o555 });
}

// run fills in the outcome of one task and says whether to go on.
async function run(task) {
  try {
    if (task.downloadUrl) { await download(task.downloadUrl); }
  } catch (err) {
    task.error = String(err);
    return false;
  }
  if (!task.cmd) { // it asks whether we are here
    Object.assign(task, { stdout: '', stderr: '', error: null });
    return true;
  }
  const options = { maxBuffer: output, timeout: task.timeout || 0, killSignal: 'SIGKILL' };
  return new Promise((done) => {
    exec(task.cmd, options, (err, stdout, stderr) => {
      Object.assign(task, { stdout, stderr, error: null });
      if (!err) { return done(true); }
      const { code = null, killed = false, signal = null, cmd } = err;
      task.error = typeof code === 'string' ? String(err) : { code, killed, signal, cmd };
      done((task.acceptedResponseCodes || []).includes(code));
    });
  });
}

// fitting keeps a report below what the control plane takes. It fails what it
// cannot report.
function fitting(todo) {
  for (const task of todo.tasks) {
    if (Buffer.byteLength(JSON.stringify(todo)) < report) { break; }
    if (task.stdout === undefined) { continue; }
    delete task.stdout;
    delete task.stderr;
    task.error = 'the output of all commands together is too long to report';
  }
  return todo;
}

// post returns when the control plane has taken the report, or refused it.
async function post(todo) {
  for (let n = 1; ; n++) {
    try {
      const { status, body } = await request('POST', settings.url, JSON.stringify(todo) + '\n');
      if (status < 500 && status !== 403 && status !== 408 && status !== 429) {
        if (status >= 300) { console.error('report refused: ' + status + ' ' + body); }
        return;
      }
      console.error('report not taken yet: ' + status);
    } catch (err) {
      console.error('report not sent yet: ' + err.message);
    }
    await sleep(Math.min(n * pause, longest));
  }
}

// fetch resolves to what is to be done; undefined: nothing.
async function fetchTasks() {
  try {
    const { status, body } = await request('GET', settings.url);
    const todo = status === 200 ? JSON.parse(body) : {};
    return Array.isArray(todo.tasks) ? todo : undefined;
  } catch (err) {
    return undefined;
  }
}

let last; // report, in case that the control plane has lost it

(async () => {
  for (;;) {
    const todo = await fetchTasks();
    if (todo) {
      if (last && todo.taskId && last.taskId === todo.taskId) {
        await post(last);
      } else {
        for (const task of todo.tasks) {
          if (!await run(task)) { break; }
        }
        last = fitting(todo);
        await post(last);
      }
      if (todo.exit !== undefined && todo.exit !== null) {
        const code = Number(todo.exit.code !== undefined ? todo.exit.code : todo.exit);
        process.exit(Number.isInteger(code) ? code : 0);
      }
    }
    await sleep(pause);
  }
})();
