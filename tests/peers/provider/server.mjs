// A real OpenID provider for the tests: it issues JWT access tokens (RFC 9068) to one client by the client credentials grant.
//
//   node server.mjs [--port N]
//
// Prints one line on stdout once it answers, {"issuer":"http://127.0.0.1:N","port":N}; everything else goes to stderr.
// It stops when its stdin closes, so it never outlives the test that started it: give it a pipe and keep that open.
//
//   --port N                 the port to listen on; 0, the default, takes a free one
//   PROVIDER_JWKS            the private key set, as JSON or as the path of a file; without it the keys are new on every start,
//                            so a restart on the same port is a rotation
//   PROVIDER_ALG             how access tokens are signed: RS256 (default), PS256, ES256, ES384 or EdDSA
//   PROVIDER_CLIENT_ID       default jobs-client
//   PROVIDER_CLIENT_SECRET   default jobs-secret-for-tests-only
//   PROVIDER_AUDIENCE        the one resource, RFC 8707; default https://api.example/jobs
//   PROVIDER_SCOPE           what the client may ask for, space-separated; default "jobs:read jobs:write"
//   PROVIDER_TOKEN_LIFETIME  seconds; default 300

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

import Provider, { errors } from 'oidc-provider';

// The provider prints its notices with `console.info`: stdout carries nothing but the ready line.
console.log = console.error;
console.info = console.error;

const RSA = ['rsa', { modulusLength: 2048 }];
const KEY_TYPES = {
  RS256: RSA,
  RS384: RSA,
  RS512: RSA,
  PS256: RSA,
  PS384: RSA,
  PS512: RSA,
  ES256: ['ec', { namedCurve: 'P-256' }],
  ES384: ['ec', { namedCurve: 'P-384' }],
  ES512: ['ec', { namedCurve: 'P-521' }],
  EdDSA: ['ed25519', {}],
};

const { values: options } = parseArgs({ options: { port: { type: 'string', default: '0' } } });
const port = Number(options.port);
if (!Number.isInteger(port) || port < 0 || port > 65535) fail(`--port must be between 0 and 65535, not ${options.port}`);

const env = (name, fallback) => process.env[`PROVIDER_${name}`] || fallback;
const alg = env('ALG', 'RS256');
if (!Object.hasOwn(KEY_TYPES, alg)) fail(`PROVIDER_ALG must be one of ${Object.keys(KEY_TYPES).join(', ')}, not ${alg}`);
const audience = env('AUDIENCE', 'https://api.example/jobs');
const scope = env('SCOPE', 'jobs:read jobs:write');
const lifetime = Number(env('TOKEN_LIFETIME', '300'));
if (!Number.isInteger(lifetime) || lifetime < 1) fail('PROVIDER_TOKEN_LIFETIME must be a whole number of seconds');

function fail(message) {
  console.error(`server.mjs: ${message}`);
  process.exit(2);
}

function newKey(name) {
  const [type, parameters] = KEY_TYPES[name];
  const { privateKey } = generateKeyPairSync(type, parameters);
  return { ...privateKey.export({ format: 'jwk' }), alg: name, use: 'sig' };
}

function keys() {
  const given = env('JWKS');
  if (given) return JSON.parse(given.trimStart().startsWith('{') ? given : readFileSync(given, 'utf8'));
  // RS256 is always there: it is what the provider signs ID tokens with.
  return { keys: [...new Set([alg, 'RS256'])].map(newKey) };
}

function configuration() {
  return {
    clients: [
      {
        client_id: env('CLIENT_ID', 'jobs-client'),
        client_secret: env('CLIENT_SECRET', 'jobs-secret-for-tests-only'),
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
        scope,
      },
    ],
    cookies: { keys: [randomBytes(32).toString('base64url')] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        getResourceServerInfo(_context, resource) {
          if (resource !== audience) throw new errors.InvalidTarget();
          return { audience, scope, accessTokenFormat: 'jwt', jwt: { sign: { alg } } };
        },
      },
    },
    jwks: keys(),
    scopes: scope.split(' '),
    ttl: { ClientCredentials: lifetime },
  };
}

const server = createServer();
server.once('error', (error) => fail(error.message));
// Loopback only: nothing outside this machine can reach it.
server.listen(port, '127.0.0.1', () => {
  const bound = server.address().port;
  // The issuer names its port, so the provider can exist only once the port is known.
  const issuer = `http://127.0.0.1:${bound}`;
  const provider = new Provider(issuer, configuration());
  provider.on('server_error', (_context, error) => console.error(error));
  server.on('request', provider.callback());
  process.stdout.write(`${JSON.stringify({ issuer, port: bound })}\n`);
});

process.stdin.on('end', () => process.exit(0)).on('error', () => process.exit(0)).resume();
