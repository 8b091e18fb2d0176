import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.DEROctetString;
import org.bouncycastle.asn1.DERSequence;
import org.bouncycastle.asn1.nist.NISTObjectIdentifiers;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.smime.SMIMECapabilityVector;
import org.bouncycastle.asn1.x509.SubjectKeyIdentifier;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.PKCS10CertificationRequestBuilder;
import org.bouncycastle.util.encoders.Hex;

/**
 * A request for a key that the server makes, encrypted on its way (RFC 7030 §4.4.1): java KeyRequest STEM OUT --to CERTIFICATE, for the
 * RSA key of that certificate, or --shared HEX, for the AES-256 key of that identifier. Like STEM.csr otherwise.
 */
public final class KeyRequest {
    private static final ASN1ObjectIdentifier DECRYPT_KEY = new ASN1ObjectIdentifier("1.2.840.113549.1.9.16.2.37");
    private static final ASN1ObjectIdentifier ASYMMETRIC_DECRYPT_KEY = new ASN1ObjectIdentifier("1.2.840.113549.1.9.16.2.54");

    public static void main(String[] words) throws Exception {
        PKCS10CertificationRequest asked = Tools.request(words[0] + ".csr");
        Map<String, String> given = Tools.options(words, 2);
        boolean shared = given.containsKey("shared");
        SMIMECapabilityVector capabilities = new SMIMECapabilityVector();
        capabilities.addCapability(shared ? NISTObjectIdentifiers.id_aes256_wrap : PKCSObjectIdentifiers.rsaEncryption);
        capabilities.addCapability(NISTObjectIdentifiers.id_aes256_CBC);
        var builder = new PKCS10CertificationRequestBuilder(asked.getSubject(), asked.getSubjectPublicKeyInfo());
        builder.addAttribute(PKCSObjectIdentifiers.pkcs_9_at_extensionRequest, asked.getRequestedExtensions());
        byte[] key = shared ? Hex.decode(given.get("shared")) : identifier(given.get("to"));
        builder.addAttribute(shared ? DECRYPT_KEY : ASYMMETRIC_DECRYPT_KEY, new DEROctetString(key));
        builder.addAttribute(PKCSObjectIdentifiers.pkcs_9_at_smimeCapabilities, new DERSequence(capabilities.toASN1EncodableVector()));
        Files.write(Path.of(words[1]), builder.build(PkiData.signer(Tools.key(words[0] + ".key"))).getEncoded());
    }

    private static byte[] identifier(String certificate) throws Exception {
        return SubjectKeyIdentifier.fromExtensions(Tools.certificate(certificate).getExtensions()).getKeyIdentifier();
    }

    private KeyRequest() {}
}
