// Node's http2 module: many requests on one session, an upload, an event stream, and its end.
//
//   node http2_client.js URL CA

"use strict";
const fs = require("node:fs");
const http2 = require("node:http2");

const [, , url, ca] = process.argv;
const session = http2.connect(url, ca ? { ca: fs.readFileSync(ca) } : {});
let goaway = null;
session.on("goaway", (code, last) => { goaway = { code, last }; });

function ask(headers, body) {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers, { endStream: body === undefined });
    const chunks = [];
    let status;
    stream.on("response", (got) => { status = got[":status"]; });
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("end", () => resolve({ status, body: Buffer.concat(chunks) }));
    stream.on("error", reject);
    if (body !== undefined) stream.end(body);
  });
}

function cancelled() {
  return new Promise((resolve) => {
    const stream = session.request({ ":path": "/held" });
    stream.on("response", () => stream.close(http2.constants.NGHTTP2_CANCEL));
    stream.on("error", () => {});
    stream.on("close", () => resolve(stream.rstCode));
  });
}

async function main() {
  const many = await Promise.all(
    Array.from({ length: 300 }, (_, n) => ask({ ":path": `/words?n=${n}` })));
  const body = Buffer.alloc(1_000_000, "node");
  const echoed = await ask({ ":path": "/echo", ":method": "POST" }, body);
  const round = await new Promise((resolve, reject) =>
    session.ping((error, took) => (error ? reject(error) : resolve(took))));
  const rst = await cancelled();
  console.log(JSON.stringify({
    statuses: many.map((one) => one.status),
    echoed: echoed.body.equals(body),
    pinged: round >= 0,
    rst,
    extended: session.remoteSettings.enableConnectProtocol,
  }));
  session.close(() => console.log(JSON.stringify({ goaway })));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
