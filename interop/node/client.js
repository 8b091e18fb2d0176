// A program that uses acme-client as its manual says. Told by the environment: DIRECTORY, CHALLENGES, NAMES, OUT, and EAB_KID
// with EAB_KEY where the server wants them; by its arguments what to do, in order. Keys and account live in OUT.
const acme = require('acme-client');
const fs = require('fs');
const path = require('path');

const { DIRECTORY, CHALLENGES, NAMES, OUT, EAB_KID, EAB_KEY } = process.env;
const at = (name) => path.join(OUT, name);

async function makeClient() {
    if (!fs.existsSync(at('account.key'))) fs.writeFileSync(at('account.key'), await acme.crypto.createPrivateEcdsaKey());
    return new acme.Client({
        directoryUrl: DIRECTORY,
        accountKey: fs.readFileSync(at('account.key')),
        accountUrl: fs.existsSync(at('account.url')) ? fs.readFileSync(at('account.url'), 'utf8') : null,
        externalAccountBinding: EAB_KID ? { kid: EAB_KID, hmacKey: EAB_KEY } : {},
        backoffMin: 200,
        backoffMax: 1000,
    });
}

const steps = {
    async issue(client) {
        const [key, csr] = await acme.crypto.createCsr({ altNames: NAMES.split(' ') });
        const chain = await client.auto({
            csr,
            email: 'admin@example.com',
            termsOfServiceAgreed: true,
            skipChallengeVerification: true, // it would ask port 80 before it asks the server
            challengeCreateFn: async (authz, challenge, proof) => fs.writeFileSync(path.join(CHALLENGES, challenge.token), proof),
            challengeRemoveFn: async (authz, challenge) => fs.unlinkSync(path.join(CHALLENGES, challenge.token)),
        });
        fs.writeFileSync(at('site.key'), key);
        fs.writeFileSync(at('site.pem'), chain);
        fs.writeFileSync(at('account.url'), client.getAccountUrl());
    },

    async rollover(client) {
        const key = await acme.crypto.createPrivateEcdsaKey();
        await client.updateAccountKey(key);
        fs.renameSync(at('account.key'), at('old.key'));
        fs.writeFileSync(at('account.key'), key);
    },

    // Somebody found the key that was rolled away.
    async useOldKey() {
        const client = new acme.Client({
            directoryUrl: DIRECTORY,
            accountKey: fs.readFileSync(at('old.key')),
            accountUrl: fs.readFileSync(at('account.url'), 'utf8'),
        });
        await client.createOrder({ identifiers: NAMES.split(' ').map((value) => ({ type: 'dns', value })) });
    },

    async revoke(client) {
        await client.revokeCertificate(fs.readFileSync(at('site.pem')), { reason: 5 });
    },
};

(async () => {
    const client = await makeClient();
    for (const step of process.argv.slice(2)) await steps[step](client);
})().catch((error) => {
    console.error(error.message);
    process.exit(1);
});
