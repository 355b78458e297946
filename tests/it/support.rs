//! The stage, and what of it needs the code of the program.

pub(crate) use test_stage::*;

/// The issuers of a configuration that holds these tables.
pub(crate) fn issuers(
    tables: &str,
) -> Result<Vec<identity_spoa::identity::settings::IssuerSettings>, String> {
    issuers_of_file(&format!(
        "[agent]\nlisten = ['127.0.0.1:0']\n[workspaces]\nfile = 'w.yaml'\n\
         [[host]]\npreset = 'ona'\ndomain = 'x.test'\n{tables}"
    ))
}

/// The issuers of a whole `agent.toml`.
pub(crate) fn issuers_of_file(
    text: &str,
) -> Result<Vec<identity_spoa::identity::settings::IssuerSettings>, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let config = identity_spoa::config::Config::load(&path).map_err(|m| m.to_string())?;
    Ok(config.issuers)
}
