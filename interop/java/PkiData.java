import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.util.ArrayList;
import java.util.List;
import org.bouncycastle.asn1.ASN1Encodable;
import org.bouncycastle.asn1.ASN1Integer;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.ASN1Sequence;
import org.bouncycastle.asn1.DEROctetString;
import org.bouncycastle.asn1.DERSequence;
import org.bouncycastle.asn1.DERSet;
import org.bouncycastle.asn1.DERUTF8String;
import org.bouncycastle.asn1.cmc.BodyPartID;
import org.bouncycastle.asn1.cmc.CMCObjectIdentifiers;
import org.bouncycastle.asn1.cmc.CertificationRequest;
import org.bouncycastle.asn1.cmc.DecryptedPOP;
import org.bouncycastle.asn1.cmc.EncryptedPOP;
import org.bouncycastle.asn1.cmc.GetCRL;
import org.bouncycastle.asn1.cmc.GetCert;
import org.bouncycastle.asn1.cmc.IdentityProofV2;
import org.bouncycastle.asn1.cmc.OtherMsg;
import org.bouncycastle.asn1.cmc.PKIData;
import org.bouncycastle.asn1.cmc.PopLinkWitnessV2;
import org.bouncycastle.asn1.cmc.RevokeRequest;
import org.bouncycastle.asn1.cmc.TaggedAttribute;
import org.bouncycastle.asn1.cmc.TaggedCertificationRequest;
import org.bouncycastle.asn1.cmc.TaggedContentInfo;
import org.bouncycastle.asn1.cmc.TaggedRequest;
import org.bouncycastle.asn1.crmf.SubsequentMessage;
import org.bouncycastle.asn1.nist.NISTObjectIdentifiers;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.asn1.x509.CRLReason;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.Extensions;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.SubjectKeyIdentifier;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.crmf.CertificateRequestMessageBuilder;
import org.bouncycastle.cert.crmf.Control;
import org.bouncycastle.cms.CMSProcessableByteArray;
import org.bouncycastle.cms.CMSSignedData;
import org.bouncycastle.cms.CMSSignedDataGenerator;
import org.bouncycastle.cms.SignerInfoGenerator;
import org.bouncycastle.cms.jcajce.JcaSimpleSignerInfoGeneratorBuilder;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.PKCS10CertificationRequestBuilder;

/**
 * A full CMC request (RFC 5272): java PkiData OUT WORD VALUE ... The words come in any order and as often as it takes; each control and
 * request gets the next body part. STEM is a request of openssl's: STEM.csr, whose names and extensions are asked for, and STEM.key.
 *
 * <p>--tcr STEM, --crm STEM, --crm-silent STEM (no proof of possession); --transaction N, --nonce HEX, --recipient HEX,
 * --identification TEXT, --regInfo TEXT, --revoke CERT,
 * --revoke-by-secret CERT (REVOCATION_SECRET), --getCert CERT, --getCRL CERT (its issuer's), --query HEX, --pop RESPONSE,STEM; --unknown OID.
 * With CMC_SECRET: identityProofV2, and popLinkWitnessV2 in every request. Signed as --agent STEM (STEM.pem and STEM.key), or
 * by the key of the request --by STEM, or, with no word of either, not at all.
 */
public final class PkiData {
    static final AlgorithmIdentifier SHA256 = new AlgorithmIdentifier(NISTObjectIdentifiers.id_sha256);
    static final AlgorithmIdentifier HMAC_SHA256 = new AlgorithmIdentifier(PKCSObjectIdentifiers.id_hmacWithSHA256);
    static final ASN1ObjectIdentifier POP_LINK_WITNESS_V2 = CMCObjectIdentifiers.id_cmc_popLinkWitnessV2;

    private final List<TaggedAttribute> controls = new ArrayList<>();
    private final List<TaggedRequest> requests = new ArrayList<>();
    private final String secret = System.getenv("CMC_SECRET");
    private final byte[] random = new byte[64];  // §6.3.1.1: at least 512 bits
    private String identification = "";
    private int next = 1;

    public static void main(String[] words) throws Exception {
        PkiData made = new PkiData();
        for (int at = 1; at + 1 < words.length; at += 2) made.add(words[at].substring(2), words[at + 1]);
        if (made.secret != null) made.proveIdentity();
        var given = Tools.options(words, 1);
        Files.write(Path.of(words[0]), made.signed(given.get("agent"), given.get("by")));
    }

    private PkiData() { new java.security.SecureRandom().nextBytes(random); }

    private void add(String word, String value) throws Exception {
        switch (word) {
            case "tcr" -> requests.add(new TaggedRequest(pkcs10(value)));
            case "crm" -> requests.add(new TaggedRequest(crmf(value, true)));
            case "crm-silent" -> requests.add(new TaggedRequest(crmf(value, false)));
            case "transaction" -> control(CMCObjectIdentifiers.id_cmc_transactionId, new ASN1Integer(new BigInteger(value)));
            case "nonce" -> control(CMCObjectIdentifiers.id_cmc_senderNonce, octets(value));
            case "recipient" -> control(CMCObjectIdentifiers.id_cmc_recipientNonce, octets(value));
            case "identification" -> control(CMCObjectIdentifiers.id_cmc_identification, new DERUTF8String(identification = value));
            case "regInfo" ->
                control(CMCObjectIdentifiers.id_cmc_regInfo, new DEROctetString(value.getBytes(StandardCharsets.UTF_8)));
            case "query" -> control(CMCObjectIdentifiers.id_cmc_queryPending, octets(value));
            case "revoke" -> control(CMCObjectIdentifiers.id_cmc_revokeRequest, revocation(Tools.certificate(value), null));
            case "revoke-by-secret" -> control(CMCObjectIdentifiers.id_cmc_revokeRequest,
                revocation(Tools.certificate(value), new DEROctetString(System.getenv("REVOCATION_SECRET").getBytes(StandardCharsets.UTF_8))));
            case "getCRL" -> control(CMCObjectIdentifiers.id_cmc_getCRL,
                new GetCRL(Tools.certificate(value).getIssuer(), null, null, null));
            case "getCert" -> control(CMCObjectIdentifiers.id_cmc_getCert, wanted(Tools.certificate(value)));
            case "unknown" -> control(new ASN1ObjectIdentifier(value), new DERUTF8String("what is this?"));
            case "pop" -> answerPop(value.split(",")[0], value.split(",")[1]);
            case "agent", "by" -> {}
            default -> throw new IllegalArgumentException(word);
        }
    }

    private BodyPartID bodyPart() { return new BodyPartID(next++); }

    private void control(ASN1ObjectIdentifier type, ASN1Encodable value) {
        controls.add(new TaggedAttribute(bodyPart(), type, new DERSet(value)));
    }

    static DEROctetString octets(String hex) { return new DEROctetString(org.bouncycastle.util.encoders.Hex.decode(hex)); }

    private static RevokeRequest revocation(X509CertificateHolder certificate, DEROctetString secret) {
        return new RevokeRequest(certificate.getIssuer(), new ASN1Integer(certificate.getSerialNumber()),
            CRLReason.lookup(CRLReason.keyCompromise), null, secret, null);
    }

    private static GetCert wanted(X509CertificateHolder certificate) {
        return new GetCert(new GeneralName(certificate.getIssuer()), certificate.getSerialNumber());
    }

    static ContentSigner signer(PrivateKey key) throws Exception { return new JcaContentSignerBuilder(algorithm(key)).setProvider("BC").build(key); }

    static String algorithm(PrivateKey key) { return key.getAlgorithm().startsWith("EC") ? "SHA256withECDSA" : "SHA256withRSA"; }

    private static Extensions extensions(PKCS10CertificationRequest request) throws Exception {
        List<Extension> all = new ArrayList<>();
        Extensions asked = request.getRequestedExtensions();
        if (asked != null) for (ASN1ObjectIdentifier each : asked.getExtensionOIDs()) all.add(asked.getExtension(each));
        all.removeIf(each -> each.getExtnId().equals(Extension.subjectKeyIdentifier));
        all.add(new Extension(Extension.subjectKeyIdentifier, false, new SubjectKeyIdentifier(identifier(request)).getEncoded()));
        return new Extensions(all.toArray(Extension[]::new));
    }

    private static byte[] identifier(PKCS10CertificationRequest request) throws Exception {
        return MessageDigest.getInstance("SHA-1").digest(request.getSubjectPublicKeyInfo().getPublicKeyData().getBytes());
    }

    private TaggedCertificationRequest pkcs10(String stem) throws Exception {
        PKCS10CertificationRequest asked = Tools.request(stem + ".csr");
        var builder = new PKCS10CertificationRequestBuilder(asked.getSubject(), asked.getSubjectPublicKeyInfo());
        builder.addAttribute(PKCSObjectIdentifiers.pkcs_9_at_extensionRequest, extensions(asked));
        if (secret != null) builder.addAttribute(POP_LINK_WITNESS_V2, link());
        byte[] made = builder.build(signer(Tools.key(stem + ".key"))).getEncoded();
        return new TaggedCertificationRequest(bodyPart(), CertificationRequest.getInstance(made));
    }

    private org.bouncycastle.asn1.crmf.CertReqMsg crmf(String stem, boolean proof) throws Exception {
        PKCS10CertificationRequest asked = Tools.request(stem + ".csr");
        var builder = new CertificateRequestMessageBuilder(BigInteger.valueOf(next++));  // certReqId is the body part
        builder.setSubject(asked.getSubject()).setPublicKey(asked.getSubjectPublicKeyInfo());
        Extensions wanted = extensions(asked);
        for (ASN1ObjectIdentifier each : wanted.getExtensionOIDs()) builder.addExtension(each, false, wanted.getExtensionParsedValue(each));
        if (secret != null) builder.addControl(new Link(link()));
        if (proof) builder.setProofOfPossessionSigningKeySigner(signer(Tools.key(stem + ".key")));
        else builder.setProofOfPossessionSubsequentMessage(SubsequentMessage.challengeResp);
        return builder.build().toASN1Structure();
    }

    /** §6.3.1.1: the random value, keyed with the hash of the secret. */
    private PopLinkWitnessV2 link() throws Exception { return new PopLinkWitnessV2(SHA256, HMAC_SHA256, mac(digest(secret.getBytes(StandardCharsets.UTF_8)), random)); }

    private record Link(PopLinkWitnessV2 witness) implements Control {
        @Override public ASN1ObjectIdentifier getType() { return POP_LINK_WITNESS_V2; }

        @Override public ASN1Encodable getValue() { return witness; }
    }

    static byte[] digest(byte[] octets) throws Exception { return MessageDigest.getInstance("SHA-256").digest(octets); }

    static byte[] mac(byte[] key, byte[] text) throws Exception {
        javax.crypto.Mac mac = javax.crypto.Mac.getInstance("HmacSHA256");
        mac.init(new javax.crypto.spec.SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(text);
    }

    /** §6.2.1: over reqSequence as it is encoded, keyed with the hash of the secret and (§6.2.3) the identification behind it. */
    private void proveIdentity() throws Exception {
        byte[] sequence = new DERSequence(requests.toArray(TaggedRequest[]::new)).getEncoded("DER");
        byte[] key = digest((secret + identification).getBytes(StandardCharsets.UTF_8));
        control(CMCObjectIdentifiers.id_cmc_identityProofV2, new IdentityProofV2(SHA256, HMAC_SHA256, mac(key, sequence)));
        control(CMCObjectIdentifiers.id_cmc_popLinkRandom, new DEROctetString(random));
    }

    /** §6.7: what only the key's holder can read, tied to the request that it came with. */
    private void answerPop(String response, String stem) throws Exception {
        EncryptedPOP asked = EncryptedPOP.getInstance(Response.value(Response.read(response), CMCObjectIdentifiers.id_cmc_encryptedPOP));
        byte[] proof = Response.decrypted(asked, Tools.key(stem + ".key"));
        TaggedRequest request = asked.getRequest();
        requests.add(request);
        BodyPartID part = new BodyPartID(Response.bodyPart(request));
        next = (int) Math.max(next, part.getID() + 1);
        control(CMCObjectIdentifiers.id_cmc_decryptedPOP,
            new DecryptedPOP(part, asked.getThePOPAlgID(), mac(proof, request.getEncoded("DER"))));
    }

    private byte[] signed(String agent, String by) throws Exception {
        PKIData data = new PKIData(controls.toArray(TaggedAttribute[]::new), requests.toArray(TaggedRequest[]::new),
            new TaggedContentInfo[0], new OtherMsg[0]);
        var content = new CMSProcessableByteArray(CMCObjectIdentifiers.id_cct_PKIData, data.getEncoded("DER"));
        CMSSignedDataGenerator generator = new CMSSignedDataGenerator();
        if (agent != null) {
            X509CertificateHolder certificate = Tools.certificate(agent + ".pem");
            generator.addSignerInfoGenerator(info(agent).build(algorithm(Tools.key(agent + ".key")), Tools.key(agent + ".key"), certificate));
            generator.addCertificate(certificate);
        }
        if (by != null) {
            PrivateKey key = Tools.key(by + ".key");
            SignerInfoGenerator made = info(by).build(algorithm(key), key, identifier(Tools.request(by + ".csr")));
            generator.addSignerInfoGenerator(made);
        }
        CMSSignedData message = generator.generate(content, true);
        return message.toASN1Structure().getEncoded("DER");
    }

    private static JcaSimpleSignerInfoGeneratorBuilder info(String stem) throws Exception {
        return new JcaSimpleSignerInfoGeneratorBuilder().setProvider("BC");
    }
}
