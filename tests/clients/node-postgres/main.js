// A pool that reads the mounted Secret for each new connection.
import { existsSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';

const file = (key) => join(process.env.DB_BINDING, key);
const read = (key) => readFileSync(file(key), 'utf8');

const pool = new pg.Pool({
  host: read('host'),
  port: Number(read('port')),
  database: read('database'),
  user: read('username'),
  // Called for each new connection: a renewed token is taken up here.
  password: () => readFile(file('password'), 'utf8'),
  // Certificate and host name are verified; without `ca` against the roots of Node.js.
  ssl: existsSync(file('certificates')) ? { ca: read('certificates') } : true,
  connectionTimeoutMillis: 10_000,
  max: 4,
});
// An idle connection that the server closes is taken out of the pool. Without a listener the
// process would end.
pool.on('error', (error) => console.error(`connection lost: ${error.message}`));

for (;;) {
  try {
    const { rows } = await pool.query('SELECT current_user AS name, pg_backend_pid() AS pid');
    console.log(`signed in as ${rows[0].name}, connection ${rows[0].pid}`);
  } catch (error) {
    console.error(`not now: ${error.message}`);
  }
  await pause(1000);
}
