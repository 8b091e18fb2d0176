import java.nio.file.Files;
import java.nio.file.Path;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.DEROctetString;
import org.bouncycastle.asn1.nist.NISTObjectIdentifiers;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.smime.SMIMECapabilityVector;
import org.bouncycastle.asn1.DERSequence;
import org.bouncycastle.asn1.x509.SubjectKeyIdentifier;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.PKCS10CertificationRequestBuilder;

/**
 * A request for a key that the server makes, encrypted to the key of a certificate (RFC 7030 §4.4.1.2): java KeyRequest STEM CERTIFICATE OUT,
 * like STEM.csr otherwise. RSA, by PKCS #1 v1.5 or OAEP, with AES-256 in CBC mode.
 */
public final class KeyRequest {
    private static final ASN1ObjectIdentifier ASYMMETRIC_DECRYPT_KEY = new ASN1ObjectIdentifier("1.2.840.113549.1.9.16.2.54");

    public static void main(String[] words) throws Exception {
        PKCS10CertificationRequest asked = Tools.request(words[0] + ".csr");
        X509CertificateHolder certificate = Tools.certificate(words[1]);
        byte[] identifier = SubjectKeyIdentifier.fromExtensions(certificate.getExtensions()).getKeyIdentifier();
        SMIMECapabilityVector capabilities = new SMIMECapabilityVector();
        capabilities.addCapability(PKCSObjectIdentifiers.rsaEncryption);
        capabilities.addCapability(NISTObjectIdentifiers.id_aes256_CBC);
        var builder = new PKCS10CertificationRequestBuilder(asked.getSubject(), asked.getSubjectPublicKeyInfo());
        builder.addAttribute(PKCSObjectIdentifiers.pkcs_9_at_extensionRequest, asked.getRequestedExtensions());
        builder.addAttribute(ASYMMETRIC_DECRYPT_KEY, new DEROctetString(identifier));
        builder.addAttribute(PKCSObjectIdentifiers.pkcs_9_at_smimeCapabilities, new DERSequence(capabilities.toASN1EncodableVector()));
        Files.write(Path.of(words[2]), builder.build(PkiData.signer(Tools.key(words[0] + ".key"))).getEncoded());
    }

    private KeyRequest() {}
}
