import java.security.SecureRandom;
import java.util.List;
import java.util.Map;
import javax.net.ssl.SSLContext;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.est.CSRAttributesResponse;
import org.bouncycastle.est.CSRRequestResponse;
import org.bouncycastle.est.ESTAuth;
import org.bouncycastle.est.ESTException;
import org.bouncycastle.est.ESTService;
import org.bouncycastle.est.EnrollmentResponse;
import org.bouncycastle.est.HttpAuth;
import org.bouncycastle.est.jcajce.JcaHttpAuthBuilder;
import org.bouncycastle.est.jcajce.JsseESTServiceBuilder;
import org.bouncycastle.util.io.pem.PemObject;

/**
 * BouncyCastle's EST client: java Est OPERATION --url URL --ca FILE [--label L] [--user U] [--cert F --key F] [--csr F] [--out F]
 * with the password in EST_PASSWORD. Exits with 1 and the HTTP status when it is refused.
 */
public final class Est {
    public static void main(String[] words) throws Exception {
        Map<String, String> given = Tools.options(words, 1);
        JsseESTServiceBuilder builder = new JsseESTServiceBuilder(Tools.server(given.get("url")), Tools.trust(given.get("ca")));
        builder.withTimeout(30000).withTLSVersion(given.getOrDefault("tls", "TLS"));
        builder.addCipherSuites(SSLContext.getDefault().getSupportedSSLParameters().getCipherSuites());
        if (given.containsKey("cert")) builder.withKeyManagers(Tools.identity(given.get("cert"), given.get("key")));
        if (given.containsKey("label")) builder.withLabel(given.get("label"));
        try {
            operation(words[0], builder.build(), given);
        } catch (ESTException refused) {
            System.out.println("refused " + refused.getStatusCode() + " " + refused.getMessage());
            System.exit(1);
        }
    }

    private static void operation(String name, ESTService service, Map<String, String> given) throws Exception {
        switch (name) {
            case "cacerts" -> Tools.writePem(given.get("out"), List.of(ESTService.storeToArray(service.getCACerts().getCertificateStore())));
            case "csrattrs" -> print(service.getCSRAttributes());
            case "enroll" -> enrolled(service, service.simpleEnroll(false, Tools.request(given.get("csr")), login(given)), given);
            case "reenroll" -> enrolled(service, service.simpleEnroll(true, Tools.request(given.get("csr")), login(given)), given);
            case "serverkeygen" ->
                enrolled(service, service.simpleEnrollWithServersideCreation(Tools.request(given.get("csr")), login(given)), given);
            default -> throw new IllegalArgumentException(name);
        }
    }

    private static ESTAuth login(Map<String, String> given) throws Exception {
        if (!given.containsKey("user")) return null;
        return new JcaHttpAuthBuilder(null, given.get("user"), System.getenv("EST_PASSWORD").toCharArray())
            .setProvider("BC").setNonceGenerator(new SecureRandom()).build();
    }

    /** Asks again for as long as it is told to wait (RFC 7030 §4.2.3), a minute at most. */
    private static void enrolled(ESTService service, EnrollmentResponse response, Map<String, String> given) throws Exception {
        for (int tries = 0; !response.isCompleted() && tries < 60; tries++) {
            long pause = Math.max(0, response.getNotBefore() - System.currentTimeMillis());
            System.out.println("pending");
            Thread.sleep(Math.min(pause, 1000));
            response = service.simpleEnroll(response);
        }
        Tools.writePem(given.get("out"), List.of(ESTService.storeToArray(response.getStore())));
        if (response.getPrivateKeyInfo() != null)
            Tools.writePem(given.get("key-out"), List.of(new PemObject("PRIVATE KEY", response.getPrivateKeyInfo().getEncoded())));
    }

    private static void print(CSRRequestResponse answer) {
        if (!answer.hasAttributesResponse()) return;
        CSRAttributesResponse attributes = answer.getAttributesResponse();
        for (ASN1ObjectIdentifier one : attributes.getRequirements()) System.out.println(one.getId());
    }
}
