//! `schema`: prints the documents that are made from the declarations of the configuration's keys.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

use super::SchemaArgs;
use crate::config::reference;

pub(super) fn schema(args: &SchemaArgs) -> anyhow::Result<ExitCode> {
    let mut out = stdout().lock();
    if args.markdown {
        write!(out, "{}", reference::markdown())?;
    } else if args.example {
        write!(out, "{}", reference::example())?;
    } else {
        serde_json::to_writer_pretty(&mut out, &reference::schema())?;
        writeln!(out)?;
    }
    Ok(ExitCode::SUCCESS)
}
