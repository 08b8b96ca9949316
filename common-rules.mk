# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What every Makefile.am includes. Includes are written from the root of the
# source tree: #include "core/base/result.h".

AM_CPPFLAGS = -I$(top_srcdir) $(PROJECT_CPPFLAGS)
AM_CXXFLAGS = $(PROJECT_CXXFLAGS)
AM_LDFLAGS = $(PROJECT_LDFLAGS)

# So that the last line of `make check` is the summary.
AM_MAKEFLAGS = --no-print-directory

# A shell command: all processors, unless -j was given by hand.
set_jobs = case " $$MAKEFLAGS" in \
	*" -j"*|*--jobserver*) jobs= ;; \
	*) jobs=-j$$(nproc 2>/dev/null || echo 2) ;; \
	esac

# $(call make_unity,FOLDER,FILES): the recipe of a source that includes these files of FOLDER.
# To parse our headers and the library's takes most of the time of a compilation: a room in
# one is compiled four times as fast as its files one by one. So two files of a room, or of a
# test program, define nothing of one name. With `configure --disable-unity` each file is
# compiled alone: for whoever changes one often, and for CI, which sees that each includes
# what it needs.
make_unity = $(AM_V_GEN)$(MKDIR_P) unity && printf '\#include "%s"\n' $(2:%=$(1)/%) >$@
