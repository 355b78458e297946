//! Reads policies from their files: every `*.cedar` of a directory.
//!
//! All mistakes are reported at once, each with file and line. A policy is refused that has no id, uses a name that the
//! schema does not have, or can never apply. The invariant: a [`PolicySet`] that exists is valid, so evaluation meets no
//! unknown attribute and no type that does not match.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use cedar_policy::{
    Authorizer, Effect, EntityId, EntityTypeName, EntityUid, Policy, PolicyId,
    PolicySet as CedarPolicies, Schema, ValidationMode, Validator,
};
use jiff::tz::TimeZone;
use miette::Diagnostic;

use super::{Policies, PolicyInputs, PolicyMode, PolicySet, SCHEMA, SchemaNames};
use crate::{
    authz::policy::PolicySettings,
    diagnostics::{Mistake, Mistakes, line_and_column},
    fingerprint::Fingerprint,
};

/// The longest id of a policy.
pub const MAX_ID: usize = 64;

impl Policies {
    /// Reads the policies that the configuration names.
    ///
    /// # Errors
    /// Every mistake in the files.
    pub fn load(settings: &PolicySettings) -> Result<Self, Mistakes> {
        let set = |directory: Option<&PathBuf>, mode| {
            directory
                .map(|directory| PolicySet::load(directory, mode, settings.zone.clone()))
                .transpose()
        };
        let enforced = set(settings.directory.as_ref(), settings.mode);
        match (enforced, set(settings.shadow.as_ref(), settings.shadow_mode)) {
            (Ok(enforced), Ok(shadow)) => Ok(Self { enforced, shadow }),
            (Err(mut mistakes), Err(more)) => {
                mistakes.extend(more);
                Err(mistakes)
            }
            (Err(mistakes), _) | (_, Err(mistakes)) => Err(mistakes),
        }
    }
}

/// A file with policies.
struct PolicyFile {
    name: String,
    text: String,
}

impl PolicyFile {
    fn mistake(&self, at: usize, message: impl Into<String>) -> Mistake {
        let place = Some(line_and_column(&self.text, at));
        Mistake { file: self.name.clone(), place, message: message.into() }
    }

    /// A mistake that Cedar found. Where Cedar names no place, it is at the byte `start`.
    fn cedar_mistake(&self, error: &dyn Diagnostic, start: usize) -> Mistake {
        let label = error.labels().and_then(|mut labels| labels.next());
        let at = label.as_ref().map_or(start, miette::LabeledSpan::offset);
        let mut message = error.to_string();
        // Cedar's message begins with "for policy `x`"; the label and the help say where and what to do.
        for more in
            [label.and_then(|l| l.label().map(str::to_owned)), error.help().map(|h| h.to_string())]
        {
            if let Some(more) = more.filter(|more| !more.is_empty()) {
                message = format!("{message} ({more})");
            }
        }
        self.mistake(at, message)
    }
}

impl PolicySet {
    /// Reads the policies of a directory.
    ///
    /// # Errors
    /// Every mistake in the files.
    pub fn load(directory: &Path, mode: PolicyMode, zone: TimeZone) -> Result<Self, Mistakes> {
        let sources = read(directory)?;
        Self::compile(&sources, mode, zone)
    }

    /// The policies of one text. `name` is the name of its file in mistakes.
    ///
    /// # Errors
    /// Every mistake in the text.
    pub fn parse(
        name: &str,
        text: &str,
        mode: PolicyMode,
        zone: TimeZone,
    ) -> Result<Self, Mistakes> {
        Self::compile(&[PolicyFile { name: name.to_owned(), text: text.to_owned() }], mode, zone)
    }

    /// Parses and validates all files together, so that one start reports every mistake.
    fn compile(sources: &[PolicyFile], mode: PolicyMode, zone: TimeZone) -> Result<Self, Mistakes> {
        let schema = schema().map_err(|error| Mistakes::whole("the schema of policies", error))?;
        let mut mistakes = Vec::new();
        let mut places: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut policies = CedarPolicies::new();
        let mut inputs = PolicyInputs::default();
        let mut unbound = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            let parsed = match source.text.parse::<CedarPolicies>() {
                Ok(parsed) => parsed,
                Err(errors) => {
                    mistakes.extend(errors.iter().map(|error| source.cedar_mistake(error, 0)));
                    continue;
                }
            };
            // A template applies only when it is linked, which no file of policies can do.
            if let Some(template) = parsed.templates().next() {
                let at = source.text.find(&template.to_cedar()).unwrap_or_default();
                let message = "templates (?principal, ?resource) are not supported: write one policy for each";
                mistakes.push(source.mistake(at, message));
            }
            // Cedar does not tell where a policy begins, so its text is searched for behind the one before.
            let mut from = 0;
            for policy in in_order(&parsed) {
                let at = policy.to_cedar().and_then(|text| source.text.get(from..)?.find(&text));
                let at = from + at.unwrap_or_default();
                from = at + usize::from(at < source.text.len());
                match identified(policy, mode, &places) {
                    Ok((id, policy)) => {
                        places.insert(id, (number, at));
                        let looked = inputs.add(&policy);
                        if policy.effect() == Effect::Permit && permits_any_issuer(&policy) {
                            unbound.push(policy.id().to_string());
                        }
                        let added = policies.add(policy).map_err(|error| error.to_string());
                        let failed = looked.err().into_iter().chain(added.err());
                        mistakes.extend(failed.map(|message| source.mistake(at, message)));
                    }
                    Err(message) => mistakes.push(source.mistake(at, message)),
                }
            }
        }
        let result = Validator::new(schema).validate(&policies, ValidationMode::Strict);
        // A warning, such as about a policy that can never apply, is a mistake too: such a policy protects nothing.
        let errors = result.validation_errors().map(|e| (e.policy_id(), e as &dyn Diagnostic));
        let warnings = result.validation_warnings().map(|w| (w.policy_id(), w as &dyn Diagnostic));
        for (id, error) in errors.chain(warnings) {
            let place = places.get(AsRef::<str>::as_ref(id));
            if let Some((source, at)) = place.and_then(|(n, at)| Some((sources.get(*n)?, *at))) {
                mistakes.push(source.cedar_mistake(error, at));
            } else {
                mistakes.extend(Mistakes::whole("policies", error.to_string()));
            }
        }
        if !mistakes.is_empty() {
            // In the order in which a person reads the files; Cedar reports some mistakes once for each action.
            mistakes.sort_by(|a, b| (&a.file, a.place).cmp(&(&b.file, b.place)));
            mistakes.dedup();
            return Err(mistakes.into());
        }
        let names = SchemaNames::new().map_err(|e| Mistakes::whole("the schema of policies", e))?;
        let hash = hash(sources);
        let authorizer = Authorizer::new();
        Ok(Self { mode, zone, policies, inputs, unbound, names, authorizer, hash })
    }
}

impl SchemaNames {
    fn new() -> Result<Self, String> {
        let kind = |name: &str| name.parse::<EntityTypeName>().map_err(|e| e.to_string());
        let uid = |of: &str, id: &str| {
            kind(of).map(|kind| EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
        };
        Ok(Self {
            user: kind("User")?,
            group: kind("Group")?,
            workspace: kind("Workspace")?,
            anonymous: uid("Anonymous", "anonymous")?,
            request: uid("Action", "request")?,
            stream: uid("Action", "stream")?,
        })
    }
}

/// Whether a policy reads a name of a person without the issuer that gives it.
fn permits_any_issuer(policy: &Policy) -> bool {
    let mut inputs = PolicyInputs::default();
    inputs.add(policy).is_ok() && inputs.reads_names_of_any_issuer()
}

/// The schema that is built into the program.
fn schema() -> Result<Schema, String> {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| error.to_string())?;
    Ok(schema)
}

/// The policies of a text in their order: the parser calls them `policy0`, `policy1` and so on.
fn in_order(parsed: &CedarPolicies) -> impl Iterator<Item = &Policy> {
    (0..parsed.num_of_policies() + parsed.num_of_templates())
        .filter_map(|number| parsed.policy(&PolicyId::new(format!("policy{number}"))))
}

/// A policy with the id that its annotation gives it.
fn identified(
    policy: &Policy,
    mode: PolicyMode,
    taken: &BTreeMap<String, (usize, usize)>,
) -> Result<(String, Policy), String> {
    let id = policy.annotation("id").unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if id.is_empty() {
        return Err("a policy needs a name, which the audit log has in each decision: write @id(\"name\") before it".into());
    }
    if id.len() > MAX_ID || !id.bytes().all(plain) {
        return Err(format!(
            "@id({id:?}): expected 1 to {MAX_ID} letters, digits, '-', '_' and '.'"
        ));
    }
    if taken.contains_key(id) {
        return Err(format!("@id({id:?}) is the name of another policy already"));
    }
    if mode == PolicyMode::Narrow && policy.effect() == Effect::Permit {
        return Err(format!(
            "the policy {id:?} permits, but with mode = \"narrow\" policies only forbid what ownership allows: write forbid, or set mode = \"replace\""
        ));
    }
    Ok((id.to_owned(), policy.new_id(PolicyId::new(id))))
}

/// The files of a directory, in the order of their names.
fn read(directory: &Path) -> Result<Vec<PolicyFile>, Mistakes> {
    let shown = directory.display().to_string();
    let failed = |error| Mistakes::whole(&shown, format!("cannot read the policies: {error}"));
    let mut paths = BTreeSet::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            paths.insert(path);
        }
    }
    // An empty directory is more likely a wrong path than a wish to have no policies.
    if paths.is_empty() {
        let message = "there is no policy: expected files that end in .cedar";
        return Err(Mistakes::whole(&shown, message));
    }
    let mut sources = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Mistakes::whole(&name, format!("cannot read the policies: {error}"))
        })?;
        sources.push(PolicyFile { name, text });
    }
    Ok(sources)
}

/// A fingerprint of the names of the files and of everything in them.
fn hash(sources: &[PolicyFile]) -> Fingerprint {
    let mut all = Vec::new();
    for PolicyFile { name, text } in sources {
        let name = Path::new(name).file_name().unwrap_or_default().as_encoded_bytes();
        // Lengths separate the parts: without them two different sets of files could have the same bytes.
        for part in [name, text.as_bytes()] {
            all.extend((part.len() as u64).to_be_bytes());
            all.extend(part);
        }
    }
    Fingerprint::of_bytes(&all)
}
