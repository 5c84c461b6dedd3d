// Node as a peer; scripted.py tells how it is spoken to.
"use strict";

const fs = require("fs");
const tls = require("tls");

const [, , role, json] = process.argv;
const terms = JSON.parse(json);
const read = (path) => path && fs.readFileSync(path);

const common = {
  ca: read(terms.ca),
  minVersion: "TLSv" + terms.version,
  maxVersion: "TLSv" + terms.version,
  ALPNProtocols: terms.alpn,
  allowHalfOpen: true, // the peer's close_notify does not end our direction
};

const withPair = (pem) => ({ ...common, key: read(pem), cert: read(pem) });

const tell = (facts) => console.log(JSON.stringify(facts));

function tellFacts(socket) {
  const { subject } = socket.getPeerCertificate() || {};
  tell({
    version: socket.getProtocol().slice("TLSv".length),
    resumed: socket.isSessionReused(),
    alpn: socket.alpnProtocol || null,
    name: socket.servername || null,
    certificate: subject ? subject.CN : null,
  });
}

function serve() {
  const other = tls.createSecureContext(withPair(terms.other_certificate));
  const server = tls.createServer({
    ...withPair(terms.certificate),
    requestCert: terms.asks_certificate,
    SNICallback: (name, answer) => answer(null, name === terms.other_name ? other : undefined),
  });
  server.on("secureConnection", (socket) => {
    tellFacts(socket);
    socket.on("data", (data) => socket.write(String(data).toUpperCase()));
    socket.on("end", () => socket.end());
    socket.on("error", ({ code }) => tell({ error: code }));
  });
  server.on("tlsClientError", ({ code }) => tell({ error: code }));
  server.listen(0, "127.0.0.1", () => tell({ port: server.address().port }));
}

function connect(options) {
  const socket = tls.connect({
    ...withPair(terms.certificate),
    host: "127.0.0.1",
    port: terms.port,
    servername: terms.name,
    ...options,
  });
  socket.on("secureConnect", () => {
    tellFacts(socket);
    socket.write("hello\n");
  });
  socket.on("error", (error) => {
    tell({ error: error.code });
    process.exitCode = 1;
  });
  return socket;
}

function talk(session) {
  const socket = connect({ session });
  if (terms.ends_first) socket.on("secureConnect", () => socket.end());
  socket.on("data", (data) => tell({ answer: String(data) }));
  socket.on("end", () => tell({ ended: true }));
  socket.on("close", () => process.exit());
  process.stdin.on("end", () => socket.end()).resume();
}

function talkTwice() {
  let newest;
  const socket = connect({});
  socket.on("session", (session) => (newest = session));
  socket.on("data", () => socket.end());
  socket.on("close", () => talk(newest));
}

if (role === "server") serve();
else if (terms.resumes) talkTwice();
else talk();
