use std::{collections::BTreeMap, fmt, fmt::Write as _, sync::Arc};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha384, Sha512, Sha512_256};

use super::{
    archive::Files,
    canonical::canonical,
    error::{Fault, shown},
    keys::{Material, VerificationKeys},
};
use crate::{
    json::{self, Found},
    token::jws::{Jws, JwsError},
};

/// Whether bundles have to be signed. There is no default: whoever can put a bundle in its place writes the policy.
#[derive(Clone, Debug)]
pub struct Verification(State);

#[derive(Clone, Debug)]
enum State {
    Required(VerificationKeys),
    Forbidden,
    Unverified,
}

impl Verification {
    /// A bundle is used only with exactly one signature that verifies under one of these keys, over exactly the files that are there.
    #[must_use]
    pub const fn required(keys: VerificationKeys) -> Self {
        Self(State::Required(keys))
    }

    /// Bundles come without a signature, over a way that is trusted in itself (a volume that only the deployment writes, TLS to one's
    /// own server). A signature that is there all the same is an error: somebody expects it to be verified.
    #[must_use]
    pub const fn forbidden() -> Self {
        Self(State::Forbidden)
    }

    /// Takes signed and unsigned bundles alike and looks at no signature: for trying a bundle out on a developer's machine.
    #[must_use]
    pub const fn dangerous_unverified() -> Self {
        Self(State::Unverified)
    }

    /// Whether bundles without a good signature are refused.
    #[must_use]
    pub const fn is_required(&self) -> bool {
        matches!(self.0, State::Required(_))
    }

    /// The id of the key that signed these files; `None` where no signature is asked for.
    pub(super) fn verify(&self, files: &Files) -> Result<Option<Arc<str>>, Fault> {
        match (&self.0, files.get(SIGNATURES)) {
            (State::Unverified, _) | (State::Forbidden, None) => Ok(None),
            (State::Forbidden, Some(_)) => Err(refused(
                "the bundle is signed, and nothing is configured to verify it: give the keys with `Verification::required`",
            )),
            (State::Required(_), None) => Err(Fault::new(
                "the bundle has no `.signatures.json`, and a signature is required: build it with `opa build --signing-key`",
            )),
            (State::Required(keys), Some(document)) => {
                let token = only_token(document)?;
                let mut buffer = Vec::new();
                let (key, payload) = payload(&token, keys, &mut buffer)?;
                check_files(payload, files)?;
                Ok(Some(key))
            }
        }
    }
}

/// The one signature of `.signatures.json`.
fn only_token(document: &[u8]) -> Result<String, Fault> {
    if document.len() > MAX_TOKEN + 1024 {
        return Err(refused("it is larger than 2 MiB: sign fewer files"));
    }
    let mut members =
        json::own_object(document).ok_or_else(|| refused("it is not one JSON object of unrepeated members"))?;
    // Another plugin is another program's idea of what a signature is.
    if members.get("plugin").is_some_and(|plugin| !matches!(plugin.as_str(), Some("" | "_default"))) {
        return Err(refused("`plugin` names another verifier: sign without `--signing-plugin`"));
    }
    let signatures = match members.remove("signatures") {
        Some(Value::Array(signatures)) => signatures,
        _ => return Err(refused("`signatures` is missing, or no array")),
    };
    match <[Value; 1]>::try_from(signatures) {
        Ok([Value::String(token)]) => Ok(token),
        Ok(_) => Err(refused("the signature is not a text")),
        Err(signatures) => Err(refused(format!("it has {} signatures: exactly one is read", signatures.len()))),
    }
}

/// What was signed, once it is known by which key.
fn payload(
    token: &str,
    keys: &VerificationKeys,
    buffer: &mut Vec<u8>,
) -> Result<(Arc<str>, Map<String, Value>), Fault> {
    let jws = Jws::parse(token.as_bytes(), MAX_TOKEN, buffer).map_err(|error| unverified(error, ""))?;
    let claimed = || {
        let ([claimed], _) = json::members(jws.payload(), ["keyid"])?;
        match claimed? {
            Found::Text(id) => Some(id.into_owned()),
            _ => None,
        }
    };
    let named = jws.header.kid.as_deref().filter(|kid| !kid.is_empty());
    let id = match (keys.key_id.as_deref(), named) {
        (Some(id), _) | (None, Some(id)) => id.to_owned(),
        (None, None) => {
            claimed().ok_or_else(|| refused("the signature names no key: configure one with `with_key_id`"))?
        }
    };
    let key = keys.find(&id).ok_or_else(|| {
        let known = keys.ids().collect::<Vec<_>>().join("`, `");
        refused(format!("the key `{}` is not configured, only `{known}`", shown(&id)))
    })?;
    // The algorithm is the key's. What the header says must be the same, and chooses nothing.
    let is_good = match &key.material {
        Material::Public(key, algorithm) => jws
            .algorithm(&[*algorithm])
            .and_then(|algorithm| jws.signing_key(algorithm, std::iter::once(key)))
            .map(|_| ()),
        Material::Secret(_) if jws.header.alg != "HS256" => Err(JwsError::Algorithm),
        Material::Secret(secret) if jws.is_made_with(secret) => Ok(()),
        Material::Secret(_) => Err(JwsError::Signature),
    };
    is_good.map_err(|error| unverified(error, &id))?;

    let payload = json::own_object(jws.payload())
        .ok_or_else(|| refused("what is signed is not one JSON object of unrepeated members"))?;
    let scope = match payload.get("scope") {
        None => "",
        Some(scope) => scope.as_str().ok_or_else(|| refused("the signed `scope` is not a text"))?,
    };
    let wanted = keys.scope.as_deref().or(key.scope.as_deref()).unwrap_or_default();
    if scope != wanted {
        let problem = format!("the signature is for the scope `{}`, and this bundle's is `{wanted}`", shown(scope));
        return Err(refused(problem));
    }
    Ok((Arc::clone(&key.id), payload))
}

/// What is signed has to be what is there, in both directions.
fn check_files(mut payload: Map<String, Value>, files: &Files) -> Result<(), Fault> {
    let Some(Value::Array(entries)) = payload.remove("files") else {
        return Err(refused("what is signed has no array `files`: it is another kind of token"));
    };
    let mut signed = BTreeMap::new();
    for entry in &entries {
        let text = |name| entry.get(name).and_then(Value::as_str);
        let (Some(name), Some(hash), Some(algorithm)) = (text("name"), text("hash"), text("algorithm")) else {
            return Err(refused("a signed file lacks `name`, `hash` or `algorithm`"));
        };
        if name == SIGNATURES {
            return Err(refused("the signature lists itself: sign again with `opa build`"));
        }
        if signed.insert(name, (hash, algorithm)).is_some() {
            return Err(refused(format!("`{}` is signed twice", shown(name))));
        }
    }
    for (path, content) in files.iter().filter(|(path, _)| *path != SIGNATURES) {
        let (hash, algorithm) = signed
            .remove(path.as_str())
            .ok_or_else(|| Fault::new("the file is not among those that are signed").in_file(path))?;
        let found = digest(path, content, algorithm).map_err(|fault| fault.in_file(path))?;
        if !found.eq_ignore_ascii_case(hash) {
            return Err(
                Fault::new("the file is not the one that was signed: build and sign the bundle again").in_file(path)
            );
        }
    }
    match signed.into_keys().next() {
        None => Ok(()),
        Some(missing) => Err(Fault::new("the file is signed, and not in the bundle").in_file(missing)),
    }
}

fn digest(path: &str, content: &[u8], algorithm: &str) -> Result<String, Fault> {
    let is_structured = matches!(path.rsplit('/').next(), Some("data.json" | ".manifest"));
    let canonical = if is_structured { Some(canonical(content)?) } else { None };
    let content = canonical.as_deref().map_or(content, str::as_bytes);
    match algorithm {
        "SHA-256" => Ok(hex::<Sha256>(content)),
        "SHA-384" => Ok(hex::<Sha384>(content)),
        "SHA-512" => Ok(hex::<Sha512>(content)),
        "SHA-512-256" => Ok(hex::<Sha512_256>(content)),
        // MD5 and SHA-1 have collisions that anyone can buy, and the shorter two are not far enough away from them.
        "MD5" | "SHA-1" | "SHA-224" | "SHA-512-224" => Err(Fault::new(format!(
            "it is signed by its {algorithm} hash, which is too weak: sign with SHA-256 or more"
        ))),
        other => Err(Fault::new(format!("it is signed by the unknown hash `{}`: sign with SHA-256", shown(other)))),
    }
}

pub(super) fn hex<D: Digest>(content: &[u8]) -> String {
    D::digest(content).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn unverified(error: JwsError, id: &str) -> Fault {
    let remedy = match error {
        JwsError::Algorithm => format!(": the header's differs from that of the key `{}`", shown(id)),
        JwsError::Signature => {
            format!(" under the key `{}`: is it the key that the bundle was signed with?", shown(id))
        }
        _ => String::new(),
    };
    refused(format!("{error}{remedy}"))
}

fn refused(problem: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(problem).in_file(SIGNATURES)
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Required(_) => "required",
            State::Forbidden => "forbidden",
            State::Unverified => "unverified",
        })
    }
}

pub(super) const SIGNATURES: &str = ".signatures.json";
/// Of one signature: it lists every file with its hash, in some 200 bytes each.
const MAX_TOKEN: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_may_be_a_little_larger_than_its_one_signature() {
        let of = |length: usize| {
            let (before, after) = (r#"{"signatures":[""#, r#""]}"#);
            let token = "a".repeat(length - before.len() - after.len());
            only_token(format!("{before}{token}{after}").as_bytes())
        };
        assert!(of(2_097_152 + 1024).is_ok());
        assert!(format!("{:?}", of(2_097_152 + 1025)).contains("2 MiB"));
    }
}
