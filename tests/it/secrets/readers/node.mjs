// Reads each format of a mounted Secret as node-postgres does, and signs in with what it read.
import { strict as assert } from 'node:assert';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const folder = process.argv[2];
const require = createRequire(join(process.env.INSTALLED, 'main.js'));
const pg = require('pg');
const { parse } = require('pg-connection-string');
const read = (key) => readFileSync(join(folder, key), 'utf8');

async function login(what, options) {
  const client = new pg.Client({ connectionTimeoutMillis: 10_000, ...options });
  await client.connect();
  const { rows } = await client.query('SELECT current_user AS name');
  console.log(`${what} ${rows[0].name}`);
  await client.end();
}

const plain = { host: read('host'), port: Number(read('port')), database: read('database'), user: read('username') };
const ssl = { ca: read('certificates') };
const found = parse(read('uri'));
// No value is shown: one of them is the token.
const same = (value, key) => assert.ok(value === read(key), `${key} in the URI is another`);
same(found.host, 'host');
same(found.port, 'port');
same(found.database, 'database');
same(found.user, 'username');
same(found.password, 'password');
await login('uri', { connectionString: read('uri') });
await login('ServiceBinding', { ...plain, password: read('password'), ssl });
await login('Json', { ...plain, password: JSON.parse(read('token.json')).accessToken, ssl });
process.env.PGPASSFILE = join(folder, 'pgpass');
await login('PgPass', { ...plain, ssl });
