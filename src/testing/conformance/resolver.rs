use std::sync::Arc;

use crate::token::{Issuer, ResolveError, ResolveIssuer, ResolveRequest};

/// A resolver of issuers: gives each issuer that it knows to many at once, under exactly the name that was asked for and in a
/// configuration that can be used, and nobody for every other text, however near or hostile.
///
/// `known` names issuers that the resolver knows, as they stand in `iss`.
///
/// # Panics
///
/// When a demand is not met; outside a Tokio runtime; without a known issuer.
pub async fn issuer_resolver(resolver: Arc<dyn ResolveIssuer>, known: &[&str]) {
    assert!(!known.is_empty(), "name at least one issuer that the resolver knows");
    for name in known {
        let crowd: Vec<_> = (0..8).map(|_| ask(&resolver, name)).collect();
        let mut given = Vec::new();
        for asked in crowd {
            let issuer = asked.await.expect("a resolver must answer with an error rather than panic");
            let issuer = issuer.expect("a resolver that works must find an issuer that it knows");
            let issuer = issuer.unwrap_or_else(|| panic!("a resolver must find an issuer that it knows: `{name}`"));
            assert!(
                issuer.is_called(name),
                "a resolver must give the issuer that was asked for, byte for byte: `{name}`"
            );
            given.push(format!("{issuer:?}"));
            if let Err(error) = issuer.check() {
                panic!("a resolver must give configurations that can be used: {error}");
            }
        }
        given.dedup();
        assert_eq!(given.len(), 1, "a resolver must give the same configuration to everybody: `{name}`");
    }
    let near = known.iter().flat_map(|name| neighbours(name));
    let hostile = HOSTILE.into_iter().map(str::to_owned).chain([format!("https://{}", "x".repeat(2_040))]);
    for other in near.chain(hostile).filter(|other| !known.contains(&other.as_str())) {
        let asked = ask(&resolver, &other).await.expect("a resolver must answer with an error rather than panic");
        let Ok(found) = asked else {
            panic!("a resolver must answer `None` for a name that nobody has, not an error: {other:?}");
        };
        assert!(found.is_none(), "a resolver must know names byte for byte and no other text: it knows {other:?}");
    }
}

type Asked = tokio::task::JoinHandle<Result<Option<Issuer>, ResolveError>>;

fn ask(resolver: &Arc<dyn ResolveIssuer>, name: &str) -> Asked {
    tokio::spawn(Arc::clone(resolver).resolve(ResolveRequest::new(name.into())))
}

/// What a look-up by prefix, pattern or normal form would take for the name.
fn neighbours(name: &str) -> Vec<String> {
    let start: String = name.chars().take(name.chars().count().saturating_sub(1)).collect();
    vec![
        start,
        format!("{name}/"),
        format!("{name}//"),
        format!("{name}."),
        format!("{name}.evil.example"),
        format!("{name}@evil.example"),
        format!("{name}/../"),
        format!("{name}?x"),
        format!("{name}#x"),
        format!("{name}%20"),
        format!("{name}%"),
        format!("{name} "),
        format!(" {name}"),
        name.to_uppercase(),
        name.replace('.', "_"),
        name.replacen("https://", "HTTPS://", 1),
        name.replacen("https://", "http://", 1),
        name.replacen("://", "://evil@", 1),
        name.replace('e', "\u{435}"),
    ]
    .into_iter()
    .filter(|other| other != name)
    .collect()
}

const HOSTILE: [&str; 10] = [
    "https://nobody.invalid/",
    "http://127.0.0.1:1/",
    "http://169.254.169.254/latest/meta-data/",
    "file:///etc/passwd",
    "../../etc/passwd",
    "' OR '1'='1",
    "*",
    "%",
    "{\"$ne\":null}",
    "https://\u{202e}example",
];
